"""Runs that are killed, stopped, started twice in one workdir, or out of disk: nothing that was written is lost."""

import re
import signal
import subprocess
import time

import pytest
from helpers.commands import assert_same_run, flags, run, start, the_error
from helpers.trees import write_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("cityscapes"))


def test_killed_at_any_moment_it_resumes_to_the_same_bits(tree, tmp_path):
    """kill -9 at several moments: before and after the first checkpoints, while saving, near the end."""
    run(flags(tree, tmp_path / "whole"))
    workdir = tmp_path / "killed"
    arguments = flags(tree, workdir)
    killed_at = []
    for lines in (1, 3, 6, 9, 14):
        process = start(arguments)
        deadline = time.monotonic() + 120
        path = workdir / "metrics.jsonl"
        while process.poll() is None and time.monotonic() < deadline:
            if path.exists() and len(path.read_text().splitlines()) >= lines:
                break
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed_at.append(lines)
        process.communicate()
    assert len(killed_at) >= 2, "the run ended before it could be killed: make it longer"
    # What a kill can leave in the middle of a line.
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 99, "train/lo')
    output = run(arguments)
    assert "resuming from" in output
    assert re.search(r"; \d+ steps were trained again", output)
    assert_same_run(tmp_path / "whole", workdir)


def test_a_second_run_in_the_same_workdir_is_refused(tree, tmp_path):
    """And touches nothing of the first."""
    workdir = tmp_path / "run"
    first = start(flags(tree, workdir, "--config.epochs=4000"))
    while first.poll() is None and not (workdir / "metrics.jsonl").exists():
        time.sleep(0.05)
    config = (workdir / "config.json").read_text()
    output = run(flags(tree, workdir, "--config.epochs=4000", "--config.seed=1"), code=1)
    assert "another run is writing" in output
    assert (workdir / "config.json").read_text() == config
    assert first.poll() is None, first.communicate()[0]
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 0, output
    assert "stopped by SIGTERM" in output
    assert "Traceback" not in output


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_message(tree, small_disk):
    output = run(flags(tree, small_disk / "run"), code=1)
    message = the_error(output)
    assert "No space left" in message
    assert str(small_disk) in message
    assert "Free some space" in message.splitlines()[1]
