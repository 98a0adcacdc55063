"""Data sets in buckets: every source reads there what it reads from a folder, and errors name the address."""

import pickle

import numpy as np
import pytest
from helpers import bucket, folders, trees

from configs import dwa
from configs import folder as folder_config
from mtlflax import data
from mtlflax.data import paths
from mtlflax.data.cityscapes import Cityscapes
from mtlflax.data.folder import Folder
from mtlflax.data.mtan import MTANCityscapes
from mtlflax.errors import UserError

pytestmark = pytest.mark.quick

SEGMENTATION = {"kind": "labels", "files": "segmentation/*", "classes": "classes.csv"}
DEPTH = {"kind": "depth", "files": "depth/*", "scale": 0.001}


def assert_same(remote, local):
    remote = pickle.loads(pickle.dumps(remote))  # as worker processes get it
    assert remote.names == local.names
    assert remote.fields == local.fields
    for one, other in zip(remote, local, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture
def photos(tmp_path):
    root = folders.photos(tmp_path / "photos")
    (root / "classes.csv").write_text("id,name\n0,a\n1,b\n2,c\n3,d\n4,e\n")
    (root / "images/.hidden.jpg").touch()
    (root / "images/.thumbnails").mkdir()
    (root / "images/.thumbnails/0.jpg").touch()
    return root


def test_cityscapes(tmp_path, monkeypatch):
    root = trees.write_tree(tmp_path / "tree", train=3, val=2)
    address = bucket.put(monkeypatch, root)
    for split in ("train", "val"):
        assert_same(Cityscapes(address, split), Cityscapes(root, split))
    assert data.resolve("auto", address) == ("cityscapes", "gs://bucket")


def test_folder(photos, monkeypatch):
    address = paths.make(bucket.put(monkeypatch, photos))
    for image in ("images/*", "**/{n}.jpg"):
        options = {"image": image, "val_share": 0.2, "fields": {"segmentation": SEGMENTATION, "depth": DEPTH}}
        if image != "images/*":
            options["fields"] = {"depth": DEPTH | {"files": "**/depth/{n}.png"}}
        for split in ("train", "val"):
            assert_same(Folder(address, split, options), Folder(photos, split, options))


def test_a_list_of_frames_and_one_of_a_split(photos, monkeypatch):
    rows = [f"images/{n}.jpg,depth/{n}.png" for n in range(10)]
    (photos / "frames.csv").write_text("\n".join(["image,depth", *rows]))
    (photos / "val.txt").write_text("3\n5\n")
    (photos / "train.txt").write_text("1\n2\n")
    address = paths.make(bucket.put(monkeypatch, photos))
    by_list = {"list": "frames.csv", "val_share": 0.3, "fields": {"depth": DEPTH}}
    by_split = {"splits": {"train": "train.txt", "val": "val.txt"}, "fields": {"depth": DEPTH}}
    for options in (by_list, by_split):
        for split in ("train", "val"):
            assert_same(Folder(address, split, options), Folder(photos, split, options))


def test_mtan(tmp_path, monkeypatch):
    for folder, shape in (("image", (4, 8, 3)), ("label", (4, 8)), ("depth", (4, 8, 1))):
        (tmp_path / "val" / folder).mkdir(parents=True)
        for i in range(2):
            np.save(tmp_path / "val" / folder / f"{i}.npy", np.full(shape, i / 2 if folder == "image" else 0.0))
    assert_same(MTANCityscapes(bucket.put(monkeypatch, tmp_path), "val"), MTANCityscapes(tmp_path, "val"))


def test_exr_files(tmp_path, monkeypatch):
    openexr = pytest.importorskip("OpenEXR")
    root = folders.photos(tmp_path)
    for n in range(10):
        values = np.full((24, 40), n + 1, np.float32)
        openexr.File({"type": openexr.scanlineimage}, {"Z": values}).write(str(root / f"depth/{n}.exr"))
    options = {"image": "images/*", "val_share": 0.2, "fields": {"depth": {"kind": "depth", "files": "depth/*.exr"}}}
    assert_same(Folder(paths.make(bucket.put(monkeypatch, root)), "val", options), Folder(root, "val", options))


def test_the_config_and_a_cache(photos, tmp_path, monkeypatch):
    def opened(root, cache):
        config = folder_config.get_config()
        config.data.update({"root": str(root), "size": (12, 20), "cache": cache})
        training, evaluated = data.open_splits(config.data)
        return list(training), list(evaluated["val"])

    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    address = bucket.put(monkeypatch, photos)
    for one, other in zip(opened(address, "auto"), opened(photos, ""), strict=True):
        assert [sample.keys() for sample in one] == [sample.keys() for sample in other]
        for left, right in zip(one, other, strict=True):
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])


def test_what_is_not_there(photos, monkeypatch):
    address = bucket.put(monkeypatch, photos)
    with pytest.raises(UserError, match="gs://bucket: has no folder leftImg8bit"):
        Cityscapes(address, "val")
    with pytest.raises(UserError, match="gs://other: there is no such folder"):
        Cityscapes("gs://other", "val")
    with pytest.raises(
        UserError, match=r"no file fits data\.folder\.image, 'rgb/.*there is no folder gs://bucket/rgb; "
    ):
        Folder(paths.make(address), "val", {"image": "rgb/*"})
    rows = {"list": "frames.csv", "fields": {}}
    with pytest.raises(UserError, match=r"frames\.csv: cannot be read"):
        Folder(paths.make(address), "val", rows)


def test_a_file_that_goes_away(photos, monkeypatch):
    source = Folder(paths.make(bucket.put(monkeypatch, photos)), "val", {"fields": {"depth": DEPTH}})
    path = source.frames[0].files["depth"]
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: cannot be read"):
        source[0]


def test_other_addresses():
    with pytest.raises(
        UserError, match=r"http://host/data: give a folder, or an address that begins with gs://, s3://"
    ):
        paths.make("http://host/data")
    config = dwa.get_config()
    with pytest.raises(UserError, match=r"data\.root: ftp://host/data: give a folder"):
        data.resolve(config.data.name, "ftp://host/data")


def test_a_package_that_is_missing(monkeypatch):
    def fails(self):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(type(paths.make("gs://bucket")), "is_dir", fails)
    with pytest.raises(UserError, match=r"gs://bucket: cannot be read .*Please install gcsfs"):
        Cityscapes("gs://bucket", "val")
