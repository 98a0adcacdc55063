"""docs/your_own_files.md: its commands, on ten photos, outside the repository."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import folders

from mtlflax.data.folder import Folder
from mtlflax.run import config_file

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "your_own_files.md").read_text()
CHECK, TRAIN, PREDICT, STATISTICS, RECORDS = re.findall(r"^    python -m (mtlflax\.\S+ .*)$", PAGE, re.MULTILINE)
(CONFIG,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SMALL = [
    "--config.data.size=(32,64)",
    "--config.batch_size=4",
    "--config.epochs=2.0",
    "--config.evaluate_every=1.0",
    "--config.model.name=helpers.tiny:tiny",  # which compiles fast
]


def run(command, *extra, cwd, code=0):
    module, *arguments = shlex.split(command)
    environment = {k: v for k, v in os.environ.items() if k != "CITYSCAPES_DATASET"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, *extra],
        cwd=cwd,
        env=environment | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests", "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    return said


def test_ten_photos(tmp_path):
    """Looked at, trained on, resumed, predicted with; then one of them breaks."""
    folders.photos(tmp_path / "photos")
    said = run(CHECK, cwd=tmp_path)
    assert "train: 8 frames, 8 of them whole" in said
    assert "5 classes written to classes.json" in said
    entries = json.loads((tmp_path / "classes.json").read_text())
    for entry, name in zip(entries, ("floor", "wall", "box", "table", "lamp"), strict=True):
        entry["name"] = name
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    said = run(TRAIN, *SMALL, cwd=tmp_path)
    assert "DATA: folder at " in said
    assert "8 training and 2 validation frames" in said
    results = json.loads((tmp_path / "runs/photos/results.json").read_text())
    assert "val/segmentation/iou/lamp" in results
    assert "val/depth/class_mae_metres/lamp" in results
    assert 1 < results["val/depth/rmse_constant"] < 4  # metres
    said = run(PREDICT, cwd=tmp_path)
    assert len(list((tmp_path / "maps").glob("*_segmentation.png"))) == 10
    run(RECORDS, *SMALL, cwd=tmp_path)
    cached = TRAIN.replace("runs/photos", "runs/cached").replace("classes.json", "found")
    run(cached, *SMALL, "--config.data.cache=cache", cwd=tmp_path)
    both = [json.loads((tmp_path / "runs" / name / "results.json").read_text()) for name in ("photos", "cached")]
    assert both[0]["val/depth/rmse"] == both[1]["val/depth/rmse"]
    run(STATISTICS, *SMALL, cwd=tmp_path)
    weights = json.loads((tmp_path / "statistics" / "class_weights_enet.json").read_text())
    assert list(weights) == ["0", "1", "2", "3", "4"]

    (tmp_path / "photos/depth/3.png").write_bytes(b"")
    (tmp_path / "photos/depth/4.png").write_bytes(b"")
    again = TRAIN.replace("runs/photos", "runs/again")
    said = run(again, *SMALL, cwd=tmp_path, code=1)
    assert re.search(r"^error: .*/photos/depth/\d\.png: is an empty file$", said, re.MULTILINE)
    said = run(again, *SMALL, "--config.data.on_error=skip", cwd=tmp_path)
    assert "NOTE: a frame is left out: " in said


@pytest.mark.quick
def test_the_config_of_the_page(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CONFIG)
    for split, count in (("training", 3), ("testing", 2)):
        for n in range(count):
            files = {
                f"{split}/rgb/{n}.jpg": folders.image(n),
                f"{split}/masks/{n}_mask.png": folders.labels(n, 5),
                f"{split}/depth/{n}.tiff": folders.depth(n),
            }
            folders.write(tmp_path / "root", files)
    config = config_file.load(f"{tmp_path / 'mine.py'}:famo,quick")
    for split, count in (("train", 3), ("val", 2)):
        source = Folder(tmp_path / "root", split, config.data.folder.to_dict())
        assert len(source) == count
        assert set(source[0]) == {"image", "segmentation", "depth", "name"}
        assert source.fields["segmentation"].names == ("floor", "wall", "box", "table", "lamp")
        assert source.fields["depth"].most == 20
