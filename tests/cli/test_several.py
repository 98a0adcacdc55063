"""Processes of one run that do not agree, or of which one fails; signals to a whole group; readers that leave."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
from helpers.commands import flags, results, start
from helpers.trees import write_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("cityscapes"))


def two(one, other):
    """Start two processes of a run with arguments of their own."""
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    hosts = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [start(given, JAX_PROCESS_ID=str(i), **hosts) for i, given in enumerate((one, other))]


def test_processes_with_different_configurations_do_not_train(tree, tmp_path):
    plain = flags(tree, tmp_path / "run")
    processes = two(plain, [*plain, "--config.optimizer.learning_rate=0.5"])
    said = [process.communicate(timeout=120)[0] for process in processes]
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 1, text
        assert "config.optimizer.learning_rate is 0.01 for process 0, 0.5 for process 1: start all by" in text
        assert "Traceback" not in text
    assert not (tmp_path / "run" / "config.json").exists()


def test_one_that_fails_says_why_and_leaves_at_once(tree, tmp_path):
    """A frame that is broken on its disk alone, in evaluation; what has started it ends the other."""
    other = tmp_path / "other"
    shutil.copytree(tree, other)
    for path in (other / "leftImg8bit" / "val").rglob("*.png"):
        path.write_bytes(b"broken")
    processes = two(flags(tree, tmp_path / "run"), flags(other, tmp_path / "run"))
    try:
        text, _ = processes[1].communicate(timeout=60)
        assert processes[1].returncode == 1
        assert "error: " in text
        assert "is not a PNG file" in text
        assert "Traceback" not in text
    finally:
        processes[0].kill()
        processes[0].communicate()


def test_sigterm_to_a_group_with_processes_that_read(tree, tmp_path):
    """As a cluster sends it: those that read go on until the run has saved."""
    run = tmp_path / "run"
    process = start(flags(tree, run, "--config.epochs=3000", "--config.data.num_workers=2", "--config.log_every=1"))
    metrics = run / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.05)
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    children = [int(pid) for pid in listed.stdout.split()]
    assert len(children) >= 2
    for pid in (*children, process.pid):
        os.kill(pid, signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert "stopped by SIGTERM" in text
    assert list((run / "checkpoints").iterdir())


def test_a_run_outlives_what_reads_its_output(tree, tmp_path):
    process = start(flags(tree, tmp_path / "run"))
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    assert results(tmp_path / "run")["finished"] is True


def test_a_run_that_is_trained_on_is_not_finished_meanwhile(tree, tmp_path):
    """Its newest checkpoint is gone, as after damage: what decides whether to queue it again must not say so."""
    run = tmp_path / "run"
    process = start(flags(tree, run, "--config.epochs=2"))
    process.communicate(timeout=120)
    assert results(run)["finished"] is True
    shutil.rmtree(run / "checkpoints" / "6")
    process = start(
        flags(tree, run, "--config.epochs=2", "--config.data.name=helpers.slow:source"), MOMENTS=str(tmp_path)
    )
    process.communicate(timeout=120)
    assert process.returncode == 1  # another configuration: nothing was changed
    assert results(run)["finished"] is True
    slow = start(flags(tree, run, "--config.epochs=2"))
    while slow.poll() is None and results(run)["finished"]:
        time.sleep(0.01)
    slow.send_signal(signal.SIGTERM)
    text, _ = slow.communicate(timeout=60)
    assert json.loads((run / "results.json").read_text())["finished"] is ("stopped by" not in text)
