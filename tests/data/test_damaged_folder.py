"""Files that are damaged or of the wrong kind, in every way: each is refused, and named, and none is trained on."""

import shutil

import cv2
import numpy as np
import pytest
from helpers import folders
from helpers.picture_bytes import png
from PIL import Image

from mtlflax.data.folder import Folder
from mtlflax.data.loader import evaluation_batches, train_batches
from mtlflax.data.samples import Checked
from mtlflax.errors import UserError

OPTIONS = {
    "image": "images/*",
    "val_share": 0.01,
    "fields": {
        "segmentation": {"kind": "labels", "files": "segmentation/*", "classes": list("abcde")},
        "depth": {"kind": "depth", "files": "depth/*", "scale": 0.001},
    },
}
IMAGE, LABELS, DEPTH = "images/1.jpg", "segmentation/1.png", "depth/1.png"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return folders.photos(tmp_path_factory.mktemp("whole"), 4)


def cut(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flip(share):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[int(share * (len(data) - 1))] ^= 0x55
        path.write_bytes(data)

    return damage


def content(data):
    return lambda path: path.write_bytes(data)


def array(values):
    return lambda path: path.write_bytes(png(values))


def folder(path):
    path.unlink()
    path.mkdir()


def link(path):
    path.unlink()
    path.symlink_to("nowhere")


def jpeg(path):
    path.write_bytes(cv2.imencode(".jpg", folders.image(0))[1].tobytes())


def cmyk(path):
    Image.fromarray(folders.image(0)).convert("CMYK").save(path, "TIFF")


def swapped(path):
    other = path.parent.parent / (DEPTH if path.parent.name == "segmentation" else LABELS)
    path.write_bytes(other.read_bytes())


LABEL_CODES = folders.labels(0, 5)
ODD = {
    "empty": content(b""),
    "zeros": content(bytes(500)),
    "text": content("not a picture, ünïcödé".encode()),
    "html": content(b"<!DOCTYPE html><html>404</html>"),
    "a folder": folder,
    "a broken link": link,
}
DAMAGES = [
    *((IMAGE, name, damage) for name, damage in ODD.items()),
    *((LABELS, name, damage) for name, damage in ODD.items()),
    *((DEPTH, name, damage) for name, damage in ODD.items()),
    *((path, f"cut at {i}", cut(i / 60)) for path in (IMAGE, LABELS, DEPTH) for i in range(60)),
    *((path, f"flipped at {i}", flip(i / 50)) for path in (LABELS, DEPTH) for i in range(51)),
    (LABELS, "another size", array(folders.labels(0, 5, (24, 41)))),
    (LABELS, "16 bits, ids outside the table", array(folders.depth(0))),
    (LABELS, "an id outside the table", array(np.where(LABEL_CODES == 4, 5, LABEL_CODES).astype(np.uint8))),
    (LABELS, "colors", array(folders.image(0))),
    (LABELS, "JPEG", jpeg),
    (LABELS, "CMYK", cmyk),
    (LABELS, "swapped", swapped),
    (DEPTH, "another size", array(folders.depth(0, (25, 40)))),
    (DEPTH, "colors", array(folders.image(0))),
    (DEPTH, "JPEG", jpeg),
    (DEPTH, "CMYK", cmyk),
    (IMAGE, "another size", lambda path: path.write_bytes(png(folders.image(0, (12, 40))))),
]


def test_there_are_hundreds():
    assert len(DAMAGES) >= 300


@pytest.mark.parametrize("part", range(6))
def test_each_is_refused_and_named(whole, tmp_path, part, capfd):
    """The other frames are read as before."""
    source = Folder(whole, "train", OPTIONS)
    assert {"1", "2"} <= set(source.names)
    before = {sample["name"]: sample for sample in Checked(source, source.fields)}
    refused = 0
    for number, (path, name, damage) in enumerate(DAMAGES[part::6]):
        root = tmp_path / str(number)
        shutil.copytree(whole, root)
        damage(root / path)
        source = Folder(root, "train", OPTIONS)
        checked = Checked(source, source.fields)
        for i, frame in enumerate(source.names):
            if frame != "1":
                for key, value in checked[i].items():
                    np.testing.assert_array_equal(value, before[frame][key])
                continue
            try:
                sample = checked[i]
            except UserError as error:
                named = [str(root / file) in str(error) for file in (IMAGE, LABELS, DEPTH)]
                assert any(named), (path, name, str(error))  # noqa: PT017 (most are refused, and some files are whole)
                refused += 1
                continue
            # It was read: then what was damaged is not what is read, or the file is gone and the field unknown.
            for key, value in sample.items():
                gone = key == {LABELS: "segmentation", DEPTH: "depth"}.get(path) and name in (
                    "a folder",
                    "a broken link",
                )
                expected = np.full_like(value, source.fields[key].fill) if gone else before["1"][key]
                np.testing.assert_array_equal(value, expected, err_msg=f"{path} {name}")
        shutil.rmtree(root)
    capfd.readouterr()  # OpenCV's own complaints
    assert refused > 0.9 * len(DAMAGES[part::6])


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_frames_are_not_trained_on(whole, tmp_path, workers, capfd):
    root = tmp_path / "some"
    shutil.copytree(whole, root)
    for path, damage in ((IMAGE, cut(0.5)), ("depth/2.png", cut(0.2))):
        damage(root / path)
    source = Folder(root, "train", OPTIONS)
    broken = {"1", "2"} & set(source.names)
    allowed = {frame: source[source.names.index(frame)]["image"].tobytes() for frame in set(source.names) - broken}
    with train_batches(
        source, source.fields, batch_size=2, seed=0, num_threads=0, num_workers=workers, on_error="skip"
    ) as batches:
        for _ in range(6):
            for image in next(batches)["image"]:
                assert image.tobytes() in allowed.values()
    masks = [batch["mask"] for batch in evaluation_batches(source, source.fields, batch_size=2, on_error="skip")]
    assert np.concatenate(masks).sum() == len(source) - len(broken)
    said = capfd.readouterr().err
    for path in [IMAGE, "depth/2.png"]:
        assert (str(root / path) in said) == (path[-5] in broken)
