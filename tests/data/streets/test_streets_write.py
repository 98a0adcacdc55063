"""The written Cityscapes tree, and the command that writes it."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.samples import same

from mtlflax.data import labels
from mtlflax.data.cityscapes import Cityscapes
from mtlflax.data.streets import Streets, frame, frame_name, write
from mtlflax.data.streets.__main__ import main
from mtlflax.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    assert main([f"--out={root}", "--size=64x128", "--train=2", "--val=3", "--jobs=1"]) == 0
    return root


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("unit", ["normalised_disparity", "disparity", "inverse_metres", "metres"])
def test_the_written_tree_reads_back_as_the_same_samples(tree: Path, split: str, unit: str):
    written = Cityscapes(tree, split, depth=unit)
    source = Streets(split, size=(64, 128), depth=unit)
    assert len(written) == (2 if split == "train" else 3)
    for index in range(len(written)):
        ours, theirs = source[index], written[index]
        assert same(ours, theirs)
        assert all(type(ours[key]) is type(theirs[key]) for key in ours)


def test_written_files_have_the_official_encodings(tree: Path):
    made = frame.make(0, "val", 1, (64, 128))
    stem = f"val/streets-val/{frame_name('val', 1)}"
    instances = cv2.imread(str(tree / f"gtFine/{stem}_gtFine_instanceIds.png"), cv2.IMREAD_UNCHANGED)
    assert instances.dtype == np.uint16
    assert np.array_equal(np.where(instances < 1000, instances, instances // 1000), made.label)
    assert set(np.unique(instances[instances >= 1000] // 1000)) <= set(range(24, 34))
    things = np.array([row.has_instances for row in labels.LABELS])[made.label]
    assert np.array_equal(things, instances >= 1000)
    color = cv2.imread(str(tree / f"gtFine/{stem}_gtFine_color.png"), cv2.IMREAD_UNCHANGED)
    assert color.shape == (64, 128, 4)
    for row in labels.LABELS[:-1]:
        at = made.label == row.id
        assert (color[at] == (*row.color[::-1], 255)).all()
    camera = json.loads((tree / f"camera/{stem}_camera.json").read_text())
    assert set(camera["extrinsic"]) == {"baseline", "pitch", "roll", "x", "y", "yaw", "z"}
    assert set(camera["intrinsic"]) == {"fx", "fy", "u0", "v0"}
    assert camera["intrinsic"]["fx"] > 2000


def test_the_official_evaluator_reads_the_tree(tree: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # removed from NumPy 2.4, used by cityscapesscripts 2.3.0
    monkeypatch.setenv("CITYSCAPES_DATASET", str(tree))
    evaluation = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    truths = sorted(map(str, tree.glob("gtFine/val/*/*_gtFine_labelIds.png")))
    arguments = evaluation.args
    monkeypatch.setattr(arguments, "JSONOutput", False)
    monkeypatch.setattr(arguments, "quiet", True)
    result = evaluation.evaluateImgLists(truths, truths, arguments)
    assert result["averageScoreClasses"] == 1
    assert result["averageScoreInstClasses"] == 1


def test_a_second_call_replaces_the_first(tmp_path: Path):
    root = tmp_path / "tree"
    write.write_tree(root, (16, 32), {"train": 2, "val": 1})
    (root / "leftImg8bit/train/streets-train/.half.png.7").write_text("")
    (root / "leftImg8bit/train/streets-train/note.txt").write_text("mine")
    write.write_tree(root, (32, 64), {"train": 1, "val": 1}, seed=3)
    (root / "leftImg8bit/train/streets-train/note.txt").unlink()  # is left alone
    assert len(list(root.glob("leftImg8bit/train/*/*"))) == 1
    assert not list(root.rglob(".*"))
    assert same(Cityscapes(root, "train")[0], Streets("train", size=(32, 64), seed=3)[0])


@pytest.mark.parametrize("argument", ["--size=12", "--size=0x64", "--train=-1", "--val=many", "--tarin=3"])
def test_bad_flags_end_with_one_line_and_code_2(argument: str, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([f"--out={tmp_path / 'new'}", argument])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert argument.split("=")[0] in error
    assert not (tmp_path / "new").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=str(tmp_path)):
        main([f"--out={tmp_path}", "--size=16x32", "--train=1", "--val=0"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_writing_with_several_processes(tmp_path: Path):
    command = [sys.executable, "-m", "mtlflax.data.streets", f"--out={tmp_path}", "--size=32x64"]
    subprocess.run([*command, "--train=3", "--val=1", "--jobs=2"], check=True, capture_output=True)
    read, live = Cityscapes(tmp_path, "train"), Streets("train", size=(32, 64))
    assert all(same(read[i], live[i]) for i in range(3))
