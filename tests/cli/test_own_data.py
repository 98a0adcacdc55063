"""docs/your_own_data.md: its one file is trained on, evaluated, resumed and predicted with, outside the repository."""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "your_own_data.md").read_text()
TRAIN, EVALUATE, PREDICT = re.findall(r"^    python -m (mtlflax\.\w+ .*)$", PAGE, re.MULTILINE)
SMALL = [
    "--config.data.size=(32,64)",
    "--config.batch_size=2",
    "--config.model.name=helpers.tiny:tiny",  # which compiles fast
    "--config.optimizer.learning_rate=0.001",
    "--config.log_every=1",
    "--config.pictures=1",
    "--config.epochs=2.0",
    "--config.evaluate_every=1.0",
]


def run(command, *extra, cwd, check=True):
    """Run one of the page's commands in a folder, as it stands."""
    module, *arguments = shlex.split(command)
    environment = {k: v for k, v in os.environ.items() if k != "CITYSCAPES_DATASET"}
    done = subprocess.run(
        [sys.executable, "-B", "-m", module, *arguments, *extra],
        cwd=cwd,
        env=environment | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests", "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's `my_data.py`, a photo elsewhere, and a run that was trained there."""
    folder = tmp_path_factory.mktemp("own")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (folder / "my_data.py").write_text(code)
    (folder / "elsewhere" / "photos").mkdir(parents=True)
    photo = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
    assert cv2.imwrite(str(folder / "elsewhere" / "photos" / "a.png"), photo)
    done = run(TRAIN, *SMALL, cwd=folder)
    assert "DATA: my_data:rooms, read at (32, 64)" in done.stdout
    assert "8 training and 2 validation frames" in done.stdout
    return folder


def results(folder):
    return json.loads((folder / "runs" / "rooms" / "results.json").read_text())


def test_it_is_trained_on(folder):
    found = results(folder)
    assert found["step"] == 8
    assert found["data"] == "my_data:rooms"
    assert found["num_val"] == 2
    values = {name: value for name, value in found.items() if name.startswith("val/")}
    assert all(math.isfinite(value) for value in values.values())
    classes = ("floor", "wall", "box", "table", "lamp")
    assert {f"val/segmentation/iou/{name}" for name in classes} <= values.keys()
    assert {"val/edges/miou", "val/edges/iou/edge", "val/edges/iou/surface"} <= values.keys()
    # The truth reaches 1000 to 6000 mm, so that its spread is within these bounds; metres are those millimetres.
    assert 500 < values["val/depth/rmse_constant"] < 2500
    in_metres = values["val/depth/rmse_constant"] / 1000
    assert values["val/depth/rmse_constant_metres"] == pytest.approx(in_metres, rel=1e-4)
    assert {"val/depth/rmse_metres", "val/depth/abs_rel_metres"} <= values.keys()
    assert not [name for name in values if "infinite" in name or "category" in name]
    record = json.loads((folder / "runs" / "rooms" / "config.json").read_text())
    assert record["modules"]["my_data"] == str(folder.resolve())
    assert record["fields"]["depth"]["unit"]["name"] == "millimetres"
    assert [entry["name"] for entry in record["fields"]["segmentation"]["classes"]] == list(classes)
    # One row per drawn frame: the image, and truth, prediction and errors of three tasks.
    (picture, *_) = sorted((folder / "runs" / "rooms" / "pictures").glob("*.png"))
    assert cv2.imread(str(picture)).shape[1] == 10 * (64 + 4) + 4


def test_it_is_evaluated_and_resumed(folder):
    before = results(folder)
    (folder / "runs" / "rooms" / "results.json").unlink()
    done = run(EVALUATE, *SMALL, cwd=folder)
    assert "evaluating " in done.stdout
    after = results(folder)
    assert after.keys() == before.keys()
    assert after["step"] in (4, 8)

    shutil.rmtree(folder / "runs" / "rooms" / "checkpoints" / "8")  # as if it had been stopped before the end
    done = run(TRAIN, *SMALL, cwd=folder)
    assert re.search(r"resuming from \S+/checkpoints/4$", done.stdout, re.MULTILINE)
    assert results(folder) == before


def test_other_classes_are_another_run(folder):
    code = (folder / "my_data.py").read_text()
    try:
        (folder / "my_data.py").write_text(code.replace('units.get("millimetres")', 'units.get("metres")'))
        done = run(EVALUATE, cwd=folder, check=False)
    finally:
        (folder / "my_data.py").write_text(code)
    assert done.returncode == 1
    assert "fields.depth.unit.name: 'millimetres' there, 'metres' here" in done.stderr


def test_it_is_predicted_with_from_another_folder(folder):
    predict = PREDICT.replace("runs/rooms", str(folder / "runs" / "rooms"))
    run(predict, cwd=folder / "elsewhere")
    maps = folder / "elsewhere" / "maps"
    read = {path.name: path for path in maps.iterdir()}
    assert sorted(read) == [
        "a_depth.png",
        "a_depth_color.png",
        "a_depth_metres.npy",
        "a_edges.png",
        "a_edges_ids.png",
        "a_overlay.png",
        "a_segmentation.png",
        "a_trainids.png",
    ]
    pixels = {name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for name, path in read.items() if path.suffix == ".png"}
    for name, channels in (("depth", 0), ("depth_color", 3), ("edges", 3), ("edges_ids", 0), ("trainids", 0)):
        assert pixels[f"a_{name}.png"].shape == ((48, 96, 3) if channels else (48, 96))
        assert pixels[f"a_{name}.png"].dtype == (np.uint16 if name == "depth" else np.uint8)
    assert set(np.unique(pixels["a_edges_ids.png"])) <= {0, 1}
    np.testing.assert_array_equal(pixels["a_edges.png"], np.repeat(255 * pixels["a_edges_ids.png"][..., None], 3, 2))
    assert pixels["a_trainids.png"].max() <= 4
    metres = np.load(read["a_depth_metres.npy"])
    assert metres.dtype == np.float32
    known = metres > 0
    np.testing.assert_array_equal(pixels["a_depth.png"], np.where(known, np.rint(metres * 256), 0).astype(np.uint16))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.data.name=my_data:room", "data set 'my_data:room': my_data has no 'room'"),
        ("--config.data.name=my_data:FIELDS", "data set 'my_data:FIELDS' is a dict: name a function"),
        ("--config.tasks=('segmentation','my_data:FIELDS')", "task 'my_data:FIELDS' is a dict: name a function"),
        ("--config.tasks=('segmentation','my_data:corners')", "task 'my_data:corners': my_data has no 'corners'"),
        ("--config.tasks=('segmentation','configs.three_tasks:normals')", "reads the field 'focal_baseline'"),
    ],
)
def test_a_mistake_is_one_line(folder, argument, message):
    done = run(TRAIN, *SMALL, f"--workdir={folder / 'none'}", argument, cwd=folder, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
