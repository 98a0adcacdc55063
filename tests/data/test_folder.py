"""A data set in folders as a source: what it reads, what it refuses, and what the check says about it."""

import pickle
import re

import cv2
import numpy as np
import pytest
from helpers import folders
from helpers.commands import call

from configs import folder as folder_config
from mtlflax import data
from mtlflax.data.folder import Folder
from mtlflax.data.folder import __main__ as command
from mtlflax.data.samples import Checked
from mtlflax.data.source import Source
from mtlflax.errors import UserError

pytestmark = pytest.mark.quick


def options(**fields):
    return {"image": "images/*", "val_share": 0.2, "fields": fields}


SEGMENTATION = {"kind": "labels", "files": "segmentation/*", "classes": "found"}
DEPTH = {"kind": "depth", "files": "depth/*", "scale": 0.001}


@pytest.fixture
def root(tmp_path):
    return folders.photos(tmp_path)


def test_frames_as_they_are_stored(root):
    every = {}
    for split, count in (("train", 8), ("val", 2)):
        source = Folder(root, split, options(segmentation=SEGMENTATION, depth=DEPTH))
        assert isinstance(source, Source)
        assert len(source) == len(source.names) == count
        every |= {sample["name"]: sample for sample in source}
    assert set(every) == {str(n) for n in range(10)}
    assert [c.name for c in source.fields["segmentation"].classes] == list("01234")
    for n in range(10):
        sample = every[str(n)]
        codes = folders.depth(n)
        expected = cv2.imread(str(root / f"images/{n}.jpg"))[..., ::-1]
        np.testing.assert_array_equal(sample["image"], expected)
        np.testing.assert_array_equal(sample["segmentation"], folders.labels(n, 5))
        np.testing.assert_array_equal(sample["depth"][..., 0], (codes * 0.001).astype(np.float32))
    assert pickle.loads(pickle.dumps(source)).names == source.names


def test_frames_at_another_size(root):
    source = Folder(root, "train", options(segmentation=SEGMENTATION, depth=DEPTH), (12, 20))
    assert source.fields["image"].aspect == pytest.approx(40 / 24)
    sample, full = source[0], source.with_full_truth()[0]
    stored = folders.labels(int(sample["name"]), 5)
    assert sample["image"].shape == full["image"].shape == (12, 20, 3)
    np.testing.assert_array_equal(full["segmentation"], stored)
    np.testing.assert_array_equal(sample["segmentation"], stored[1::2, 1::2])
    assert sample["depth"].shape == (12, 20, 1)
    assert full["depth"].shape == (24, 40, 1)
    Checked(source, source.fields)[0]


def test_a_frame_may_lack_a_field(root):
    (root / "depth" / "3.png").unlink()
    for split in ("train", "val"):
        source = Folder(root, split, options(depth=DEPTH))
        for i, name in enumerate(source.names):
            assert ("depth" in source[i]) == (name != "3")
            assert (Checked(source, source.fields)[i]["depth"] > 0).any() == (name != "3")


def test_few_measurements_are_kept_when_a_picture_shrinks(root):
    rng = np.random.default_rng(0)
    stored = np.zeros((24, 40), np.uint16)
    stored[rng.integers(0, 24, 30), rng.integers(0, 40, 30)] = 4000
    stored[10, 11] = 7000  # nearest to the center of the pixel of rows 8 to 11 and columns 8 to 11
    stored[10, 8] = 8000
    for n in range(10):
        folders.write(root, {f"depth/{n}.png": stored})
    dense, sparse = (
        Folder(root, "val", options(depth=DEPTH | {"sparse": sparse}), (6, 10))[0]["depth"][..., 0]
        for sparse in (False, True)
    )
    boxes = stored.reshape(6, 4, 10, 4).max(axis=(1, 3))
    np.testing.assert_array_equal(sparse > 0, boxes > 0)
    assert (dense > 0).sum() < (sparse > 0).sum()
    assert sparse[2, 2] == 7
    wide = Folder(root, "val", options(depth=DEPTH | {"sparse": True}), (48, 80))[0]["depth"]
    assert (wide > 0).sum() == (stored > 0).sum()


def test_depths_in_every_form(root):
    stored = np.array([[0, 100, 200, 65535]], np.uint16)
    floats = np.array([[np.nan, -1, 0.5, np.inf]], np.float32)
    folders.write(root, {f"images/{n}.jpg": folders.image(n, (1, 4)) for n in range(10)})
    for n in range(10):
        (root / f"depth/{n}.png").unlink()
        folders.write(root, {f"codes/{n}.png": stored, f"floats/{n}.npy": floats})
    for choice, expected in (
        ({"files": "codes/*", "scale": 0.01}, [0, 1, 2, 655.35]),
        ({"files": "codes/*", "scale": 0.01, "unknown": [0, 65535]}, [0, 1, 2, 0]),
        ({"files": "codes/*", "scale": 0.01, "offset": -1.0}, [0, 0, 1, 654.35]),
        ({"files": "codes/*", "unit": "millimetres"}, [0, 100, 200, 65535]),
        ({"files": "floats/*"}, [0, 0, 0.5, 0]),
        ({"files": "floats/*.npy", "unit": "inverse_metres", "scale": 2.0}, [0, 0, 1, 0]),
    ):
        source = Folder(root, "val", options(depth={"kind": "depth"} | choice))
        np.testing.assert_allclose(source[0]["depth"].ravel(), expected, rtol=1e-6)
        assert source.fields["depth"].unit.name == choice.get("unit", "metres")


def test_other_ground_truth(root):
    normals = np.random.default_rng(0).normal(size=(24, 40, 3)).astype(np.float64)
    for n in range(10):
        folders.write(root, {f"normals/{n}.npy": normals})
    fields = {
        "normals": {"kind": "map", "files": "normals/*", "channels": 3, "mirror": (-1, 1, 1)},
        "focal_baseline": {"kind": "number", "value": 389.0},
        "parts": {"kind": "labels", "files": "segmentation/*", "classes": ("a", "b", "c", "d", "e")},
    }
    source = Folder(root, "train", options(**fields), (12, 20))
    sample = Checked(source, source.fields)[0]
    np.testing.assert_array_equal(sample["normals"], normals[1::2, 1::2].astype(np.float32))
    assert sample["focal_baseline"] == 389
    assert source.fields["parts"].names == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            {"segmentation/0.png": folders.labels(0, 5, (24, 41))},
            "segmentation/0.png: is 24×41 pixels, but its image is",
        ),
        ({"segmentation/0.png": folders.image(0)}, "segmentation/0.png: holds the color #"),
        ({"segmentation/0.png": np.full((24, 40), 9, np.uint8)}, "segmentation/0.png: holds the value 9, which is not"),
        ({"depth/0.png": folders.image(0)}, r"depth/0.png: holds \[24, 40, 3\]: a depth is one number per pixel"),
    ],
)
def test_what_does_not_fit_is_named(root, damage, message):
    folders.write(root, damage)
    labels = SEGMENTATION | {"classes": list("abcde")}
    for split in ("train", "val"):
        source = Folder(root, split, options(segmentation=labels, depth=DEPTH))
        for i, name in enumerate(source.names):
            if name == "0":
                with pytest.raises(UserError, match=message):
                    source[i]
            else:
                source[i]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": {"kind": "depht"}}, "fields.depth.kind is 'depht': choose from labels, depth, map, number"),
        ({"x": {"files": "depth/*"}}, "fields.x.kind is ''"),
        ({"depth": DEPTH | {"scael": 2}}, r"fields.depth.scael is no option of depth \(did you mean 'scale'\?\)"),
        ({"depth": DEPTH | {"scale": 0}}, "fields.depth: scale is 0"),
        ({"depth": DEPTH | {"unit": "feet"}}, "fields.depth: unknown depth unit 'feet'"),
        ({"segmentation": SEGMENTATION | {"classes": [3]}}, "fields.segmentation: its entry 3 is neither"),
    ],
)
def test_mistakes_in_the_options(root, fields, message):
    with pytest.raises(ValueError, match=message):
        Folder(root, "train", options(**fields))


def config_at(root, *, arg=None):
    config = folder_config.get_config(arg)
    config.data.root = str(root)
    return config.data


def test_it_is_opened_by_a_config(root):
    config = config_at(root)
    config.name, config.root = data.resolve(config.name, config.root)
    training, evaluated = data.open_splits(config)
    assert (len(training), len(evaluated["val"])) == (8, 2)
    assert training[0]["image"].shape == (128, 256, 3)
    with pytest.raises(UserError, match="there is no such folder"):
        data.open_source("folder", config_at(root / "nowhere"), "train")
    with pytest.raises(UserError, match=r"give the folder that holds your files as data\.root"):
        data.open_source("folder", config_at(""), "train")


def check(root, *arguments, code=0):
    return call(["--check", "--config=configs/folder.py", f"--config.data.root={root}", *arguments], command.main, code)


def test_the_check_says_what_is_there(root, tmp_path):
    folders.write(root, {"depth/extra.png": folders.depth(0)})
    (root / "segmentation" / "3.png").unlink()
    said = check(root, f"--classes={tmp_path / 'classes.json'}")
    assert "train: 8 frames, 8 of them whole" in said
    assert "val: 2 frames, 2 of them whole" in said
    assert "size: 24×40 (8)" in said
    assert "segmentation: 5 classes; 0.0% of the pixels have none" in said
    assert re.search(
        r"depth: 90\.\d% of the pixels are measured, 0\.5\d* to 8\.99\d* metres; half of them are below", said
    )
    assert "1 frames have no segmentation: 3" in said
    assert said.count("1 files of depth belong to no image: depth/extra.png") == 2
    named = (tmp_path / "classes.json").read_text().replace('"name": "4"', '"name": "lamp"')
    (tmp_path / "classes.json").write_text(named)
    said = check(root, f"--config.data.folder.fields.segmentation.classes={tmp_path / 'classes.json'}")
    assert " 4 lamp " in said


def test_the_check_names_what_is_broken(root):
    whole = (root / "images" / "1.jpg").read_bytes()
    (root / "images" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "depth" / "2.png").write_bytes(b"")
    said = check(root, code=1)
    assert "images/1.jpg: is truncated" in said
    assert "depth/2.png: is an empty file" in said
    assert said.count("BROKEN") == 2


def test_mistakes_of_the_check(root):
    assert "data.name is folder: give the folder that holds your files as data.root" in check("", code=1)
    assert "there is no such folder" in check(root / "x", code=1)
    said = check(root, "--config.data.folder.fields.depth.files=dpth/*", code=1)
    assert "no file fits data.folder.fields.depth.files, 'dpth/*': there is no folder" in said
    said = check(root, "--config.data.folder.fields.depth.scael=1", code=1)
    assert "no key" in said
