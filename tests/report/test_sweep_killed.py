"""A sweep that is killed again and again ends with the table of one that is not, to the bit."""

import csv
import json
import os
import random
import signal
import time

import pytest
from helpers.sweeps import start, sweep, write_sweep

from mtlflax.report.summary import STEP_TIME


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_gives_the_same_table(tmp_path):
    """By turns with the runs that it has started, and alone, so that they go on without it."""
    folder = write_sweep(tmp_path)
    sweep(folder, "mine.py", "--out=whole", "--no-cost")
    rng, killed = random.Random(0), 0
    for i in range(40):
        process = start(folder, "mine.py", "--out=killed", "--no-cost")
        time.sleep(rng.uniform(1, 12))
        if process.poll() is None:
            (os.killpg if i % 2 else os.kill)(process.pid, signal.SIGKILL)
            killed += 1
        process.stdout.close()
        process.wait()
        if killed == 10:
            break
        if process.returncode == 0:  # it was done: once more, from the start of some runs
            for name in ("depth/seed1", "both/seed1"):
                for path in sorted((folder / "killed" / name).rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
    assert killed == 10
    said = sweep(folder, "mine.py", "--out=killed", "--no-cost")
    assert "FAILED" not in said
    for name in ("table.csv", "differences.csv"):
        tables = []
        for out in ("whole", "killed"):
            with open(folder / out / "report" / name) as file:
                tables.append([{k: v for k, v in line.items() if k != STEP_TIME} for line in csv.DictReader(file)])
        assert tables[0] == tables[1]
    for tasks in ("both", "depth", "segmentation"):
        for seed in range(2):
            for name in ("best.json", "results.json"):
                a, b = (
                    json.loads((folder / out / tasks / f"seed{seed}" / name).read_text()) for out in ("whole", "killed")
                )
                assert a == b
