"""A run in several processes on this machine, started as a user starts it: by launch/local.sh."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from helpers.commands import REPOSITORY


def start(
    arguments: Sequence[str], logs: Path, *, processes: int, devices: int, **environment: str
) -> subprocess.Popen[str]:
    """Start the command in some processes with some simulated devices each; the output is that of process 0."""
    kept = {k: v for k, v in os.environ.items() if k != "CITYSCAPES_DATASET"}
    kept |= {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu", "LOGS": str(logs)}
    kept |= {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests"}
    return subprocess.Popen(
        [str(REPOSITORY / "launch/local.sh"), str(processes), "python", "-m", "mtlflax.main", *arguments],
        cwd=REPOSITORY,
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(arguments: Sequence[str], logs: Path, *, processes: int = 1, devices: int = 1, code: int = 0) -> str:
    """Run it to its end, and check its exit code; return what process 0 said."""
    with start(arguments, logs, processes=processes, devices=devices) as process:
        try:
            said, _ = process.communicate(timeout=400)
        finally:
            process.kill()
    others = "\n".join(path.read_text() for path in sorted(logs.glob("*.log")))
    assert process.returncode == code, said + others
    assert "Traceback" not in said + others, said + others
    return said
