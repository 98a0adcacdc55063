"""The Cityscapes reader on small trees that PIL writes in the official format."""

import json
import pickle
import struct
import zlib

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import dwa
from mtlflax import data, tasks
from mtlflax.data import labels, units
from mtlflax.data.cityscapes import Cityscapes
from mtlflax.data.samples import Checked
from mtlflax.errors import UserError

H, W = 64, 128
ALL = ["image", "segmentation", "depth", "focal_baseline"]  # the fields of a whole tree
RIGS = {"aachen": (2262.52, 0.209313), "bad-honnef": (2268.36, 0.222126)}
FRAMES = ("aachen_000000_000019", "aachen_000003_000019", "bad-honnef_000000_046078")


def pixels(name):
    """A frame's arrays as the files hold them: image, label ids, disparity codes."""
    rng = np.random.default_rng(list(name.encode()))
    codes = rng.integers(257, 32258, (H, W)).astype(np.uint16)
    codes[rng.random((H, W)) < 0.2] = 0
    codes[rng.random((H, W)) < 0.1] = 1
    image = rng.integers(0, 256, (H, W, 3)).astype(np.uint8)
    return image, rng.integers(0, 34, (H, W)).astype(np.uint8), codes


def path(root, kind, name, ending, split="val"):
    result = root / kind / split / name.split("_")[0] / (name + ending)
    result.parent.mkdir(parents=True, exist_ok=True)
    return result


def write(root, name, image, label_ids, codes, split="val"):
    Image.fromarray(image).save(path(root, "leftImg8bit", name, "_leftImg8bit.png", split))
    Image.fromarray(label_ids).save(path(root, "gtFine", name, "_gtFine_labelIds.png", split))
    Image.fromarray(codes).save(path(root, "disparity", name, "_disparity.png", split))
    fx, baseline = RIGS[name.split("_")[0]]
    camera = {
        "extrinsic": {"baseline": baseline, "pitch": 0.03, "x": 1.7, "z": 1.22},
        "intrinsic": {"fx": fx, "fy": fx, "u0": 1097.0, "v0": 513.1},
    }
    path(root, "camera", name, "_camera.json", split).write_text(json.dumps(camera))


@pytest.fixture
def root(tmp_path):
    for name in FRAMES:
        write(tmp_path, name, *pixels(name))
    return tmp_path


def test_samples(root):
    source = Cityscapes(root, "val")
    assert len(source) == 3
    assert [source[i]["name"] for i in range(3)] == list(FRAMES)
    with pytest.raises(IndexError):
        source[3]
    sample = source[2]
    image, _, codes = pixels(FRAMES[2])
    np.testing.assert_array_equal(sample["image"], image)
    assert sample["image"].dtype == sample["segmentation"].dtype == np.uint8
    assert sample["depth"].shape == (H, W, 1)
    assert sample["depth"].dtype == np.float32
    np.testing.assert_array_equal(np.rint(sample["depth"][..., 0] * 65535.0), codes)
    assert sample["focal_baseline"].dtype == np.float32


@pytest.mark.parametrize("unit", units.UNITS)
def test_units_and_each_frames_own_camera(root, unit):
    source = Cityscapes(root, "val", depth=unit)
    for index, name in enumerate(FRAMES):
        codes = pixels(name)[2].astype(np.float64)
        focal_baseline = np.prod(RIGS[name.split("_")[0]])
        disparity = (codes - 1) / 256
        measured = codes > 1
        expected = {
            "normalised_disparity": codes / 65535,
            "disparity": np.where(measured, disparity, 0),
            "inverse_metres": np.where(measured, disparity / focal_baseline, 0),
            "metres": np.where(measured, focal_baseline / np.where(measured, disparity, 1), 0),
            "millimetres": np.where(measured, 1000 * focal_baseline / np.where(measured, disparity, 1), 0),
        }[unit]
        sample = source[index]
        np.testing.assert_allclose(sample["depth"][..., 0], expected, rtol=1e-6)
        assert sample["focal_baseline"] == np.float32(focal_baseline)


@pytest.mark.parametrize("classes", [19, 7, 34])
def test_labels(root, classes):
    official = pytest.importorskip("cityscapesscripts.helpers.labels")
    label_ids = pixels(FRAMES[0])[1]
    expected = np.empty((H, W))
    for label_id in range(34):
        label = official.id2label[label_id]
        category = label.categoryId - 1 if label.categoryId else 255
        expected[label_ids == label_id] = {19: label.trainId, 7: category, 34: label_id}[classes]
    source = Cityscapes(root, "val", classes=classes)
    np.testing.assert_array_equal(source[0]["segmentation"], expected)


def test_coarse_labels_and_the_extra_frames(root):
    """`train_extra` has coarse labels alone."""
    for name in FRAMES[:2]:
        image, label_ids, codes = pixels(name)
        write(root, name, image, label_ids, codes, split="train_extra")
        fine = path(root, "gtFine", name, "_gtFine_labelIds.png", "train_extra")
        fine.rename(path(root, "gtCoarse", name, "_gtCoarse_labelIds.png", "train_extra"))
    (root / "gtFine" / "train_extra" / "aachen").rmdir()
    (root / "gtFine" / "train_extra").rmdir()
    source = Cityscapes(root, "train_extra", annotations="gtCoarse")
    assert source.names == list(FRAMES[:2])
    np.testing.assert_array_equal(source[0]["segmentation"], labels.TRAIN_ID_LUT[pixels(FRAMES[0])[1]])
    assert "segmentation" not in Cityscapes(root, "train_extra").fields
    with pytest.raises(UserError, match=r"leftImg8bit/train: there is no such folder; .* has val, train_extra"):
        Cityscapes(root, "train")
    with pytest.raises(ValueError, match="annotations is 'gtfine'"):
        Cityscapes(root, "val", annotations="gtfine")
    path(root, "gtCoarse", FRAMES[0], "_gtCoarse_labelIds.png", "train_extra").unlink()
    with pytest.raises(UserError, match=r"is missing: unpack gtCoarse\.zip again"):
        Cityscapes(root, "train_extra", annotations="gtCoarse")


def test_a_list_of_frames(root, tmp_path):
    chosen = tmp_path / "list.txt"
    chosen.write_text(f"{FRAMES[2]}\n\nleftImg8bit/val/aachen/{FRAMES[0]}_leftImg8bit.png\n")
    assert Cityscapes(root, "val", frames=chosen).names == [FRAMES[0], FRAMES[2]]
    chosen.write_text(f"{FRAMES[2]}\nulm_1\n")
    with pytest.raises(UserError, match=r"list\.txt: names 1 frames that this split lacks, 'ulm_1' first"):
        Cityscapes(root, "val", frames=chosen)
    chosen.write_text("")
    with pytest.raises(UserError, match="names no frames"):
        Cityscapes(root, "val", frames=chosen)


def test_instance_ids(root):
    for name in FRAMES:
        ids = np.where(pixels(name)[1] > 24, pixels(name)[1].astype(np.uint16) * 1000 + 3, pixels(name)[1]).astype(
            np.uint16
        )
        Image.fromarray(ids).save(path(root, "gtFine", name, "_gtFine_instanceIds.png"))
    source = Cityscapes(root, "val", instances=True, size=(H // 2, W // 2))
    sample = Checked(source, source.fields)[1]
    stored = pixels(FRAMES[1])[1][1::2, 1::2]
    np.testing.assert_array_equal(sample["instances"] % 1000 == 3, (stored > 24) | (stored == 3))
    assert sample["instances"].max() > 24000
    assert "instances" not in Cityscapes(root, "val").fields


def test_train_ids_are_used_where_present(root):
    train_ids = np.full((H, W), 255, np.uint8)
    train_ids[5:9] = 18
    file = path(root, "gtFine", FRAMES[1], "_gtFine_labelTrainIds.png")
    Image.fromarray(train_ids).save(file)
    without = Cityscapes(root, "val", classes=7)[1]["segmentation"]
    np.testing.assert_array_equal(Cityscapes(root, "val")[1]["segmentation"], train_ids)
    assert (without != 255).mean() > 0.5  # categories need the label ids
    train_ids[0, 0] = 19
    Image.fromarray(train_ids).save(file)
    with pytest.raises(UserError, match=r"labelTrainIds\.png: holds 19"):
        Cityscapes(root, "val")[1]


def test_numbers_that_are_no_label_ids_are_refused(root):
    file = path(root, "gtFine", FRAMES[0], "_gtFine_labelIds.png")
    label_ids = pixels(FRAMES[0])[1]
    label_ids[3, 4] = 255  # a licence plate, -1, as some tools write it
    Image.fromarray(label_ids).save(file)
    assert Cityscapes(root, "val")[0]["segmentation"][3, 4] == 255
    label_ids[0, 0] = 34
    Image.fromarray(label_ids).save(file)
    with pytest.raises(UserError, match=r"labelIds\.png: holds 34, which is no label id \(0 to 33\)"):
        Cityscapes(root, "val")[0]


def test_dummy_labels_of_the_test_split_are_ignored(tmp_path):
    image, _, codes = pixels(FRAMES[0])
    dummy = np.repeat(np.arange(4, dtype=np.uint8), H * W // 4).reshape(H, W)
    write(tmp_path, FRAMES[0], image, dummy, codes, "test")
    assert (Cityscapes(tmp_path, "test")[0]["segmentation"] == 255).all()


def test_files_of_macos_and_of_others_are_passed_over(root):
    folder = root / "leftImg8bit" / "val" / "aachen"
    (folder / f"._{FRAMES[0]}_leftImg8bit.png").write_bytes(b"resource fork")
    (folder / "Thumbs.db").write_bytes(b"")
    (root / "leftImg8bit" / "val" / "license.txt").write_text("terms")
    assert len(Cityscapes(root, "val")) == 3


def test_it_can_be_pickled(root):
    source = pickle.loads(pickle.dumps(Cityscapes(root, "val", size=(32, 64))))
    assert source[1]["image"].shape == (32, 64, 3)


@pytest.mark.parametrize("size", [(32, 64), (16, 32), (24, 48), (21, 50), (128, 256), (80, 144)])
def test_resizing_keeps_image_and_maps_aligned(tmp_path, size):
    # Each picture's values are twice the column or row they lie in; so are the disparities.
    rows, columns = np.mgrid[:H, :W]
    image = np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8)
    for name, place in zip(FRAMES[:2], (columns, rows), strict=True):
        write(tmp_path, name, image, (place % 34).astype(np.uint8), (257 + 256 * place).astype("u2"))
    source = Cityscapes(tmp_path, "val", size=size, depth="disparity")
    for index in range(2):
        sample = source[index]
        place = sample["depth"][..., 0] - 1
        # Half a pixel of the file, and the rounding of 8 bits and of OpenCV's fixed-point weights.
        assert np.abs(sample["image"][..., index] / 2 - place).max() <= 0.5 + 0.35
        centres = (np.arange(size[1 - index]) + 0.5) * (W, H)[index] / size[1 - index] - 0.5
        assert np.abs(place - (centres[:, None] if index else centres[None])).max() <= 0.5
        lut = data.labels.TRAIN_ID_LUT
        np.testing.assert_array_equal(sample["segmentation"], lut[place.astype(int) % 34])


def test_resizing_mixes_nothing_into_valid_pixels(root):
    sample = Cityscapes(root, "val", size=(23, 41))[0]
    codes = np.rint(sample["depth"] * 65535.0).astype(int)
    assert set(codes.ravel()) <= set(pixels(FRAMES[0])[2].ravel().tolist())
    assert (codes == 0).any()
    assert (codes == 1).any()


FILES = {
    "image": ("leftImg8bit", "_leftImg8bit.png"),
    "labels": ("gtFine", "_gtFine_labelIds.png"),
    "disparity": ("disparity", "_disparity.png"),
}
DAMAGES = {
    "cut at 30 %": (lambda content: content[: len(content) * 3 // 10], "truncated"),
    "cut at 90 %": (lambda content: content[: len(content) * 9 // 10], "truncated"),
    "last 10 bytes": (lambda content: content[:-10], "truncated"),
    "last byte": (lambda content: content[:-1], "truncated"),
    "flipped": (
        lambda content: content[:900] + bytes(255 - byte for byte in content[900:910]) + content[910:],
        "damaged",
    ),
    "empty": (lambda content: b"", "empty"),
    "a web page": (lambda content: b"<html>Please log in</html>", "not a PNG"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", FILES)
def test_broken_files_are_named(root, kind, damage, capfd):
    folder, ending = FILES[kind]
    file = path(root, folder, FRAMES[1], ending)
    damaged, complaint = DAMAGES[damage]
    file.write_bytes(damaged(file.read_bytes()))
    source = Cityscapes(root, "val")
    source[0]
    with pytest.raises(UserError, match=complaint) as error:
        source[1]
    assert str(file) in str(error.value)
    assert capfd.readouterr().err == ""  # nothing of libpng's beside it


def test_content_that_cannot_be_decompressed_is_named(root):
    file = path(root, *FILES["image"][:1], FRAMES[0], FILES["image"][1])
    header = file.read_bytes()[:33]
    garbage = b"IDAT" + bytes(range(200))
    chunk = struct.pack(">I", 200) + garbage + struct.pack(">I", zlib.crc32(garbage))
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    file.write_bytes(header + chunk + end)
    with pytest.raises(UserError, match="cannot be decoded"):
        Cityscapes(root, "val")[0]


@pytest.mark.parametrize(
    ("kind", "replacement", "found"),
    [
        ("image", np.zeros((H, W), np.uint8), "8-bit gray"),
        ("image", np.zeros((H, W, 4), np.uint8), "8-bit RGBA"),
        ("labels", np.zeros((H, W, 3), np.uint8), "8-bit RGB"),
        ("labels", np.zeros((H, W), np.uint16), "16-bit gray"),
        ("disparity", np.zeros((H, W), np.uint8), "8-bit gray"),
        ("labels", np.zeros((H // 2, W // 2), np.uint8), "32×64"),
        ("disparity", np.zeros((H, W - 1), np.uint16), "64×127"),
    ],
)
def test_files_of_another_kind_or_size_are_named(root, kind, replacement, found):
    folder, ending = FILES[kind]
    file = path(root, folder, FRAMES[1], ending)
    Image.fromarray(replacement).save(file)
    with pytest.raises(UserError, match=found) as error:
        Cityscapes(root, "val", size=(16, 32))[1]
    assert str(file) in str(error.value)


@pytest.mark.parametrize("kind", FILES)
def test_a_missing_file_is_found_before_anything_is_read(root, kind):
    folder, ending = FILES[kind]
    if kind == "image":  # without its picture there is no such frame
        path(root, folder, FRAMES[1], ending).unlink()
        assert len(Cityscapes(root, "val")) == 2
        return
    for name in FRAMES[1:]:
        path(root, folder, name, ending).unlink()
    with pytest.raises(UserError, match=r"2 files .*trainvaltest\.zip") as error:
        Cityscapes(root, "val")
    assert str(path(root, folder, FRAMES[1], ending)) in str(error.value)


def test_a_file_that_vanishes_later_is_named(root):
    source = Cityscapes(root, "val")
    path(root, "disparity", FRAMES[0], "_disparity.png").unlink()
    with pytest.raises(UserError, match=r"aachen_000000_000019_disparity\.png: cannot be read"):
        source[0]


def test_a_split_without_pictures_is_named(root):
    for kind in ("gtFine", "disparity"):
        (root / kind / "train").mkdir()
    with pytest.raises(UserError, match=r"leftImg8bit.train: .*has val.*leftImg8bit_trainvaltest"):
        Cityscapes(root, "train")


@pytest.mark.parametrize(
    ("kind", "lacking", "left"), [("gtFine", "segmentation", "depth"), ("disparity", "depth", "segmentation")]
)
def test_a_tree_with_one_truth_serves_the_tasks_that_read_it(root, kind, lacking, left):
    (root / kind).rename(root / "elsewhere")
    source = Cityscapes(root, "val", size=(16, 32))
    assert list(source.fields) == [name for name in ALL if name != lacking]
    assert [*source[0]] == [*source.fields, "name"]
    config = dwa.get_config("quick")
    config.tasks = (left,)
    (task,) = tasks.from_config(config, source.fields, source.missing)
    assert task.name == left
    config.tasks = ("segmentation", "depth")
    with pytest.raises(UserError) as error:
        tasks.from_config(config, source.fields, source.missing)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"the task {lacking} reads the field '{lacking}', which the data set lacks: ")
    assert line.endswith(f"{kind}/val: there is no such folder: unpack {kind}_trainvaltest.zip into {root}")


def test_a_root_that_is_none(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        Cityscapes(tmp_path / "nowhere", "val")
    with pytest.raises(UserError, match="no folder leftImg8bit"):
        Cityscapes(tmp_path, "val")
    for kind in ("leftImg8bit", "gtFine", "disparity", "camera"):
        (tmp_path / kind / "val").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no file CITY"):
        Cityscapes(tmp_path, "val")


def test_without_cameras(root, caplog):
    (root / "camera").rename(root / "elsewhere")
    for unit in ("metres", "inverse_metres"):
        with pytest.raises(UserError, match=r"camera.val: .*camera_trainvaltest\.zip"):
            Cityscapes(root, "val", depth=unit)
    for unit in ("normalised_disparity", "disparity"):
        caplog.clear()
        source = Cityscapes(root, "val", depth=unit)
        sample, _ = source[0], source[1]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "camera_trainvaltest.zip" in caplog.text
        assert sample["focal_baseline"] == 0
        assert sample["depth"].max() > 0


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"intrinsic": {"fx": 0}, "extrinsic": {"baseline": 0.2}}'])
def test_a_broken_camera_file_is_named(root, content):
    path(root, "camera", FRAMES[0], "_camera.json").write_text(content)
    with pytest.raises(UserError, match=r"aachen_000000_000019_camera\.json: "):
        Cityscapes(root, "val")[0]


@pytest.mark.parametrize("size", [(0, 64), (32,), (32, -64), (32.5, 64)])
def test_a_size_that_is_none(root, size):
    with pytest.raises(UserError, match=r"data\.size"):
        Cityscapes(root, "val", size=size)


def test_resolve(root, monkeypatch, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    assert data.resolve("auto", "") == ("streets", None)
    with pytest.raises(UserError, match=r"data\.name is cityscapes"):  # asked for by name, it is not replaced
        data.resolve("cityscapes", "")
    for name in ("auto", "cityscapes"):
        assert data.resolve(name, root) == ("cityscapes", str(root))
        with pytest.raises(UserError, match=r"data\.root: .*leftImg8bit"):
            data.resolve(name, empty)
    monkeypatch.setenv("CITYSCAPES_DATASET", str(root))
    assert data.resolve("cityscapes") == ("cityscapes", str(root))
    assert data.resolve("streets") == ("streets", None)
    with pytest.raises(UserError, match=r"data\.root: "):
        data.resolve("cityscapes", empty)  # what is given goes before the environment
    for wrong in (empty, empty / "typo"):
        monkeypatch.setenv("CITYSCAPES_DATASET", str(wrong))
        with pytest.raises(UserError, match="variable CITYSCAPES_DATASET: "):
            data.resolve("cityscapes")
        assert data.resolve("cityscapes", root) == ("cityscapes", str(root))
    monkeypatch.setenv("CITYSCAPES_DATASET", "")
    assert data.resolve("auto") == ("streets", None)
    with pytest.raises(UserError, match="drop one"):
        data.resolve("streets", root)
    with pytest.raises(ValueError, match="auto, cityscapes, streets"):
        data.resolve("kitti", root)


def options(**changes):
    """`config.data`, as far as the built-in sources read it."""
    streets = {"train": 3, "val": 2, "seed": 0}
    given = {"root": "", "size": (16, 32), "depth": "metres", "classes": 7, "streets": streets}
    return ConfigDict(given | changes)


def test_open_source(root):
    source = data.open_source("cityscapes", options(root=str(root)), "val")
    assert source[0]["image"].shape == (16, 32, 3)
    assert source[0]["depth"].max() > 3
    assert len(source.fields["segmentation"].classes) == 7
    with pytest.raises(UserError, match=r"unknown data set 'kitti': choose from cityscapes, streets"):
        data.open_source("kitti", options(), "val")
    with pytest.raises(UserError, match=r"data\.root is empty"):
        data.open_source("cityscapes", options(), "val")


def test_streets_are_rendered_by_prepare_and_not_before(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path))
    source = data.open_source("streets", options(size=(32, 64)), "val")
    assert len(source) == 2
    assert source.names == ["streets-val_000000_000019", "streets-val_000001_000019"]
    assert not any(tmp_path.rglob("*"))
    source.prepare()
    rendered = sorted(tmp_path.rglob("*"))
    assert rendered
    assert source[1]["image"].shape == (32, 64, 3)
    assert sorted(tmp_path.rglob("*")) == rendered
