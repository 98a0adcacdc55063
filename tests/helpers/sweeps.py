"""A sweep of tiny runs, and `launch/sweep.py` as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.commands import REPOSITORY
from helpers.trees import write_tree

SWEEP = """
from configs import ewdw, single_task

def get_config(arg):
    return (ewdw if arg == "both" else single_task).get_config("quick" if arg == "both" else arg + ",quick")

def sweep(add, arg="2"):
    for seed in range(int(arg)):
        for tasks in ("segmentation", "depth", "both"):
            values = {{
                "seed": seed, "data.name": "cityscapes", "data.root": {root!r}, "data.size": (32, 64),
                "model.name": "helpers.tiny:tiny", "batch_size": 4, "epochs": 4, "optimizer.learning_rate": 0.01,
                "log_every": 2,
            }}
            add(f"{{tasks}}/seed{{seed}}", f"{{__file__}}:{{tasks}}", values)
    if arg == "3":
        add("broken", f"{{__file__}}:both", {{"data.name": "cityscapes", "data.root": "/nowhere"}})
"""


def write_sweep(folder: Path) -> Path:
    """Write a data set and `mine.py`: three kinds of runs × seeds."""
    root = write_tree(folder / "tree", train=12, val=4)
    (folder / "mine.py").write_text(SWEEP.format(root=str(root)))
    return folder


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a sweep, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "launch" / "sweep.py"), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests", "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def sweep(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run a sweep, check its exit code, and return its output."""
    process = start(folder, *arguments)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == code, said
    assert "Traceback" not in said
    return said
