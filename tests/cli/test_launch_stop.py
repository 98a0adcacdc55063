"""`launch/local.sh` leaves no process behind, however it ends and whatever its processes do about it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
# As a process that waits for a sum with one that has ended: it takes no notice of being asked to end.
STUBBORN = "trap '' TERM"

# Tests run in the background ignore SIGINT, as does all that they start. (A `preexec_fn` would fork under JAX.)
IN_A_TERMINAL = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


def start(folder, behaviour, then=":"):
    script = f"{behaviour}; echo $$ > {folder}/$JAX_PROCESS_ID; {then}; exec sleep 100"
    return subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, str(LAUNCH / "local.sh"), "2", "sh", "-c", script],
        env=os.environ | {"LOGS": str(folder / "logs")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def pids(folder):
    """Of the two processes, once both have said them."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        texts = [path.read_text().strip() for path in (folder / "0", folder / "1") if path.exists()]
        if len(texts) == 2 and all(texts):
            return [int(text) for text in texts]
        time.sleep(0.02)
    raise AssertionError("the processes did not start")


def assert_gone(numbers):
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_one_that_does_not_end_when_another_has_failed_is_killed(tmp_path):
    once_both_are_there = f"until [ -s {tmp_path}/0 ]; do sleep 0.05; done"
    launched = start(tmp_path, STUBBORN, then=f"[ $JAX_PROCESS_ID = 0 ] || {{ {once_both_are_there}; exit 3; }}")
    _, error = launched.communicate(timeout=60)
    assert launched.returncode == 3
    assert "failed with exit code 3" in error
    assert_gone(pids(tmp_path))


def test_ctrl_c_stops_all(tmp_path):
    launched = start(tmp_path, STUBBORN)
    started = pids(tmp_path)
    os.killpg(launched.pid, signal.SIGINT)  # a terminal's reaches everything that was started in it
    launched.communicate(timeout=60)
    assert launched.returncode == 130
    assert_gone(started)


def test_those_that_end_by_themselves_are_not_waited_for(tmp_path):
    launched = start(tmp_path, ":")
    started = pids(tmp_path)
    began = time.monotonic()
    launched.terminate()
    launched.communicate(timeout=60)
    assert launched.returncode == 143
    assert time.monotonic() - began < 8
    assert_gone(started)
