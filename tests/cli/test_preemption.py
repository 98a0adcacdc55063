"""SIGTERM and Ctrl-C, wherever a run is: all of its processes save the same step and end with 0, and it resumes."""

import json
import signal
import socket
import time

import jax
import numpy as np
import pytest
from helpers.commands import final_state, flags, results, start
from helpers.trees import write_tree

SLOW = ["--config.data.name=helpers.slow:source", "--config.model.name=helpers.slow:network", "--config.log_every=1"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("cityscapes"), train=12, val=16)


def start_all(arguments, count, moments):
    """Start a run in some processes on this machine, and the folder in which they say where they are."""
    moments.mkdir(exist_ok=True)
    if count == 1:
        return [start(arguments, MOMENTS=str(moments))]
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    hosts = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return [start(arguments, MOMENTS=str(moments), JAX_PROCESS_ID=str(i), **hosts) for i in range(count)]


def wait_until(there, processes):
    end = time.monotonic() + 120
    while not there():
        assert all(process.poll() is None for process in processes), [process.communicate()[0] for process in processes]
        assert time.monotonic() < end
        time.sleep(0.02)


def outputs(processes, code=0):
    """What they said, once all have ended with a code."""
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(said)
    assert not any("Traceback" in text for text in said), "\n".join(said)
    return said


@pytest.fixture(scope="module")
def whole(tree, tmp_path_factory):
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    outputs(start_all(flags(tree, folder / "run", *SLOW), 1, folder / "moments"))
    return folder / "run"


TERM, INT = signal.SIGTERM, signal.SIGINT
QUICK = [("training", 1, INT), ("training", 2, TERM), ("evaluation", 1, TERM), ("evaluation", 2, TERM)]
QUICK += [("compilation", 1, TERM)]
SLOW_CASES = [("training", 1, TERM), ("training", 2, INT), ("evaluation", 1, INT), ("evaluation", 2, INT)]
SLOW_CASES += [("compilation", 2, TERM), ("compilation", 1, INT)]


@pytest.mark.parametrize(
    ("moment", "count", "signum"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)]
)
def test_it_is_saved_and_resumes(moment, count, signum, tree, whole, tmp_path):
    run, moments = tmp_path / "run", tmp_path / "moments"
    arguments = flags(tree, run, *SLOW)
    processes = start_all(arguments, count, moments)
    last = str(count - 1)
    if moment == "training":
        wait_until(lambda: (run / "metrics.jsonl").exists() and run.joinpath("metrics.jsonl").read_text(), processes)
    else:
        wait_until((moments / (moment + last)).exists, processes)
    processes[-1].send_signal(signum)
    said = outputs(processes)
    assert "stopped by" in said[0]
    assert "run the same command again to resume" in said[0]
    steps = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    assert 1 <= steps[-1] < 30
    if moment == "compilation":
        assert steps[-1] <= 3
    if moment == "evaluation":  # the first is at step 3
        assert steps == [3]
        assert json.loads((run / "checkpoints/3/data/metadata").read_text())["evaluated"] is False
        assert not (run / "results.json").exists()
    said = outputs(start_all(arguments, count, moments))
    assert f"resuming from {run}/checkpoints/{steps[-1]}" in said[0]
    assert results(run)["finished"] is True
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/depth/rmse" in line] == list(range(3, 31, 3))
    if count == 1:
        jax.tree.map(np.testing.assert_array_equal, final_state(run)[1], final_state(whole)[1])
        assert results(run) == results(whole)
    else:
        assert results(run)["val/depth/rmse"] == pytest.approx(results(whole)["val/depth/rmse"], rel=0.02)


def test_a_second_ctrl_c_leaves_at_once(tree, tmp_path):
    arguments = flags(tree, tmp_path / "run", *SLOW)
    processes = start_all(arguments, 1, tmp_path / "moments")
    wait_until((tmp_path / "moments" / "compilation0").exists, processes)
    processes[0].send_signal(signal.SIGINT)
    time.sleep(0.3)
    processes[0].send_signal(signal.SIGINT)
    (said,) = outputs(processes, code=130)
    assert "run the same command again to resume" in said


def test_several_sigterms_are_one(tree, tmp_path):
    """What takes a machine away may send more than one before it kills."""
    processes = start_all(flags(tree, tmp_path / "run", *SLOW), 1, tmp_path / "moments")
    wait_until((tmp_path / "moments" / "compilation0").exists, processes)
    for _ in range(3):
        processes[0].send_signal(signal.SIGTERM)
        time.sleep(0.2)
    (said,) = outputs(processes)
    assert "stopped by SIGTERM" in said
    assert list((tmp_path / "run" / "checkpoints").iterdir())
