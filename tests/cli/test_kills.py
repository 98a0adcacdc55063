"""kill -9, again and again, of a run in two processes: it ends with the bits of one that nothing happened to."""

import os
import random
import signal
import time

import pytest
from helpers import hosts
from helpers.commands import assert_same_run, flags
from helpers.trees import write_tree


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_resumes_to_the_same_bits(kills, tmp_path):
    """One of the processes, or all of them; while they start, compile, train, evaluate or save."""
    tree = write_tree(tmp_path / "tree")
    shape = {"processes": 2, "devices": 1}
    epochs = "--config.epochs=40"  # longer than it takes to start
    began = time.monotonic()
    hosts.run(flags(tree, tmp_path / "whole", epochs), tmp_path / "logs", **shape)
    whole = time.monotonic() - began
    rng = random.Random(0)
    given = flags(tree, tmp_path / "killed", epochs)
    killed = 0
    while killed < kills:
        process = hosts.start(given, tmp_path / "logs", **shape, PATIENCE="1")
        began = time.monotonic()
        # Some die before their first step: the next ones get further.
        time.sleep(rng.uniform(0.1, 0.6) * whole)
        if process.poll() is None:
            found = children(process.pid)
            for pid in found if rng.random() < 0.5 else found[:1]:
                os.kill(pid, signal.SIGKILL)
            killed += bool(found)
        process.communicate(timeout=60)
        assert time.monotonic() - began < 60
        if process.returncode == 0:
            break
    hosts.run(given, tmp_path / "logs", **shape)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert killed >= min(kills, 2)


def children(pid):
    """The processes that the launcher has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        every = [int(child) for child in file.read().split()]
    return [child for child in every if b"mtlflax.main" in command(child)]


def command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""
