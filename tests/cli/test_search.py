"""launch/search.py: trials are trained, ended early, and resumed after kill -9."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.commands import REPOSITORY
from helpers.trees import write_tree

optuna = pytest.importorskip("optuna")

# The last trial, behind one that was killed and two that end, learns nothing: it is ended early.
SEARCH = """
from configs import ewdw

def get_config(arg=None):
    return ewdw.get_config("quick")

def search(trial):
    rate = trial.suggest_float("rate", 0.009, 0.011)
    return f"{{__file__}}", {{
        "data.name": "cityscapes", "data.root": {root!r}, "data.size": (32, 64), "model.name": "helpers.tiny:tiny",
        "batch_size": 4, "epochs": 16, "evaluate_every": 1, "log_every": 3,
        "optimizer.learning_rate": 1e-9 if trial.number == 3 else rate,
    }}
"""


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "launch" / "search.py"), "mine.py", "--out=out", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests", "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder, *arguments, code=0):
    process = start(folder, *arguments)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == code, said
    assert "Traceback" not in said
    return said


def test_a_search_is_resumed_and_ends_what_falls_behind(tmp_path):
    root = write_tree(tmp_path / "tree", train=8, val=4)
    (tmp_path / "mine.py").write_text(SEARCH.format(root=str(root)))
    process = start(tmp_path, "--trials=3")
    checkpoints = tmp_path / "out" / "trial0" / "checkpoints"
    while process.poll() is None and not any(path.name.isdigit() for path in checkpoints.glob("*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 120  # its run goes on by itself: that one is stopped, too
    subprocess.run(["pkill", "-9", "-f", str(tmp_path / "out" / "trial0")], check=False)
    while (
        time.monotonic() < deadline
        and subprocess.run(["pgrep", "-f", str(tmp_path / "out")], check=False, capture_output=True).stdout
    ):
        time.sleep(0.1)

    said = run(tmp_path, "--trials=3")
    assert "trial0 was left behind: it is resumed" in said
    assert "resuming from" in (tmp_path / "out" / "trial0" / "output.txt").read_text()
    assert "behind the others at step" in said
    assert "best of 2 finished trials: val/segmentation/miou" in said
    assert "    rate = 0.0" in said
    assert run(tmp_path, "--trials=3").count("[") == 0  # nothing left to do


def test_a_trial_whose_search_was_killed_is_waited_for(tmp_path):
    root = write_tree(tmp_path / "tree", train=8, val=4)
    (tmp_path / "mine.py").write_text(SEARCH.format(root=str(root)))
    process = start(tmp_path, "--trials=1")
    while process.poll() is None and not (tmp_path / "out" / "trial0" / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    said = run(tmp_path, "--trials=1")
    assert "trial0: left behind, and still being trained; waiting for it" in said
    assert "trial0 was left behind: it is resumed" in said
    assert "best of 1 finished trials" in said
    (tmp_path / "out" / "study.log").write_bytes(b"\xff\xfe broken\n")
    assert "study.log: is damaged" in run(tmp_path, "--trials=1", code=1)


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "mine.py").write_text("def search(trial):\n    return 'configs/ewdw.py:quick'\n")
    assert "must return a config and a dict of overrides" in run(tmp_path, "--trials=1", code=1)
    (tmp_path / "mine.py").write_text("def search(trial):\n    return trial.suggest('x')\n")
    assert "mine.py, line 2: AttributeError" in run(tmp_path, "--trials=1", code=1)
    assert "--trials must be at least 1" in run(tmp_path, "--trials=0", code=2)
