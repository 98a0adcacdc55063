"""`python -m mtlflax.main` as a user gives it, on a network that compiles in a second: in a process, or in this one."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp

from mtlflax import command_line, main

REPOSITORY = Path(__file__).parents[2]


def flags(tree: Path, workdir: Path, *more: str) -> list[str]:
    """Return the arguments of a run of 30 steps."""
    return [
        "--config=configs/dwa.py",
        f"--workdir={workdir}",
        f"--config.data.root={tree}",
        "--config.data.size=(32,64)",
        "--config.model.name=helpers.tiny:tiny",
        "--config.model.pretrained=",
        "--config.batch_size=4",
        "--config.epochs=10",  # of 3 steps
        "--config.best.from_epoch=2",
        "--config.log_every=4",
        "--config.optimizer.learning_rate=0.01",
        *more,
    ]


def start(
    arguments: Sequence[str], module: str = "mtlflax.main", cwd: Path = REPOSITORY, **environment: str
) -> subprocess.Popen[str]:
    """Start a command of the package on one device, with stderr in its stdout."""
    kept = {k: v for k, v in os.environ.items() if k != "CITYSCAPES_DATASET"}
    kept |= {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(arguments: Sequence[str], module: str = "mtlflax.main", code: int = 0, **options: Any) -> str:
    """Run it in a process of its own, check its exit code, and return its output."""
    with start(arguments, module, **options) as process:
        try:
            output, _ = process.communicate(timeout=900)  # for what hangs: a busy machine takes minutes to compile
        finally:
            process.kill()
    return check(process.returncode, output, code)


def call(arguments: Sequence[str], command: Callable[[Sequence[str]], int | None] = main.main, code: int = 0) -> str:
    """Run it in this process, which takes no seconds to start, as its last line `if __name__ == ...` does."""
    output = io.StringIO()
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            mock.patch.object(sys, "argv", ["mtlflax", *arguments]),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            contextlib.chdir(REPOSITORY),
        ):
            command_line.run(command)
    except SystemExit as stopped:
        if isinstance(stopped.code, str):  # the interpreter prints it and exits with 1
            return check(1, f"{output.getvalue()}{stopped.code}\n", code)
        return check(stopped.code or 0, output.getvalue(), code)
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    raise AssertionError("the command did not exit")


def check(returned: int | str | None, output: str, code: int) -> str:
    assert returned == code, output
    assert code == 0 or "Traceback" not in output, output
    return output


def the_error(output: str) -> str:
    """The one error message in a command's output, up to its end."""
    assert sum(line.startswith("error: ") for line in output.splitlines()) == 1, output
    return output[output.index("error: ") :]


def final_state(workdir: Path) -> tuple[list[int], Any]:
    """Return the steps of a run's checkpoints, and the newest's state as NumPy arrays, whatever devices saved it."""
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    path = workdir / "checkpoints" / str(steps[-1]) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(path).item_metadata.tree
        arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        return steps, checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=arrays))


def history(workdir: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl without speeds and times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "per_second" not in k} for line in lines if "redone_steps" not in line]


def results(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "results.json").read_text())


def assert_same_run(a: Path, b: Path) -> None:
    """Two runs wrote the same numbers, to the last bit."""
    steps_a, state_a = final_state(a)
    steps_b, state_b = final_state(b)
    assert steps_a == steps_b
    jax.tree.map(np.testing.assert_array_equal, state_a, state_b)
    assert history(a) == history(b)
    assert results(a) == results(b)
