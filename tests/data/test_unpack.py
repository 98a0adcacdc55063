"""Unpacking Cityscapes' packages: files are verified, a stopped run resumes, and what is missing is named."""

import zipfile

import pytest
from helpers import trees
from helpers.commands import call

from mtlflax.data import unpack
from mtlflax.data.cityscapes import Cityscapes

pytestmark = pytest.mark.quick

KINDS = ("leftImg8bit", "gtFine", "disparity", "camera")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Packages of 3 training and 2 validation frames."""
    monkeypatch.setattr(unpack, "FRAMES", {"train": 3, "val": 2, "test": 0, "train_extra": 0})
    tree = trees.write_tree(tmp_path / "tree", train=3, val=2)
    folder = tmp_path / "packages"
    folder.mkdir()
    for kind in KINDS:
        with zipfile.ZipFile(folder / f"{kind}_trainvaltest.zip", "w") as package:
            package.writestr("README", "read me")
            for path in sorted((tree / kind).rglob("*")):
                if path.is_file():
                    package.write(path, path.relative_to(tree))
    return folder


def run(packages, out, *more, code=0):
    return call([f"--packages={packages}", f"--out={out}", *more], unpack.main, code)


def test_packages_become_a_tree(packages, tmp_path):
    said = run(packages, tmp_path / "root")
    assert "leftImg8bit_trainvaltest.zip: 5 files unpacked, 0 there before" in said
    assert f"{tmp_path / 'root'} is whole" in said
    assert len(Cityscapes(tmp_path / "root", "train")) == 3
    assert not (tmp_path / "root" / "README").exists()
    (tmp_path / "root/disparity/val/aachen/aachen_000001_000019_disparity.png").write_bytes(b"half")
    said = run(packages, tmp_path / "root")
    assert "disparity_trainvaltest.zip: 1 files unpacked, 4 there before" in said
    assert "gtFine_trainvaltest.zip: 0 files unpacked, 5 there before" in said


def test_what_is_missing_is_said(packages, tmp_path):
    (packages / "disparity_trainvaltest.zip").unlink()
    said = run(packages, tmp_path / "root", code=1)
    assert "MISSING disparity/train: 0 of 3 frames: unpack disparity_trainvaltest.zip" in said
    said = run(packages, tmp_path / "some", "--only=leftImg8bit,gtFine")
    assert "is whole" in said
    assert not (tmp_path / "some" / "camera").exists()


def test_what_is_damaged_is_said(packages, tmp_path):
    path = packages / "gtFine_trainvaltest.zip"
    data = bytearray(path.read_bytes())
    place = data.index(b"IDAT") + 8
    data[place] ^= 0xFF
    path.write_bytes(data)
    said = run(packages, tmp_path / "root", code=1)
    assert "gtFine_trainvaltest.zip: gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png is damaged" in said
    assert "MISSING gtFine/train: 2 of 3 frames" in said
    assert not list((tmp_path / "root").rglob("*.part"))
    path.write_bytes(path.read_bytes()[:500])
    assert "is no whole zip file" in run(packages, tmp_path / "other", code=1)


def test_mistakes(packages, tmp_path):
    assert "there is no such folder" in run(tmp_path / "nowhere", tmp_path / "root", code=1)
    (tmp_path / "empty").mkdir()
    assert "holds no package of leftImg8bit" in run(tmp_path / "empty", tmp_path / "root", code=1)
    assert "--only=gtfine: gtfine is none of leftImg8bit" in run(packages, tmp_path / "root", "--only=gtfine", code=2)
    with zipfile.ZipFile(packages / "camera_trainvaltest.zip", "a") as package:
        package.writestr("../outside.json", "{}")
    assert "holds '../outside.json', outside its own folder" in run(packages, tmp_path / "root", code=1)
    assert not (tmp_path / "outside.json").exists()


def test_nothing_usable_is_not_whole(packages, tmp_path):
    """Labels without pictures, a package below one more folder, an entry without a name."""
    for path in packages.glob("*.zip"):
        if not path.name.startswith("gtFine"):
            path.unlink()
    said = run(packages, tmp_path / "out", code=1)
    assert "MISSING leftImg8bit" in said
    assert "is whole" not in said
    deeper = tmp_path / "deeper"
    deeper.mkdir()
    with zipfile.ZipFile(deeper / "leftImg8bit_trainvaltest.zip", "w") as package:
        package.writestr("mine/leftImg8bit/train/a/a_000000_000019_leftImg8bit.png", b"x")
        package.writestr(".", b"")
    said = run(deeper, tmp_path / "other", code=1)
    assert "holds no folder" in said
    assert "Traceback" not in said
