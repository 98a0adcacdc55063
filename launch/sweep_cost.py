"""What a sweep will cost: the step of each kind of run, measured before it starts."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mtlflax.run.config_file import Entry
from mtlflax.run.progress import format_seconds

REPOSITORY = Path(__file__).resolve().parents[1]


def say_cost(entries: Sequence[Entry], out: Path, jobs: int) -> None:
    """Measure the step of each kind of run that is to be trained, and print what all of them take.

    What is compiled for that is not compiled again; what was measured is kept in DIR/cost.
    """
    kinds: dict[str, list[Entry]] = {}
    for entry in entries:
        same = [entry.config, *(value for value in entry.overrides if not value.startswith("--config.seed="))]
        kinds.setdefault("\n".join(same), []).append(entry)
    seconds = 0.0
    for kind, alike in kinds.items():
        path = out / "cost" / f"{hashlib.sha256(kind.encode()).hexdigest()[:16]}.json"
        command = [
            "mtlflax.benchmark",
            f"--config={alike[0].config}",
            "--steps=5",
            f"--out={path}",
            *alike[0].overrides,
        ]
        if not path.exists():
            subprocess.run([sys.executable, "-m", *command], env=environment(out), check=False, capture_output=True)
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            print(f"{alike[0].name}: its step cannot be timed", flush=True)
            continue
        whole = len(alike) * found["total_steps"] * found["median"]
        seconds += whole
        sum_of_kind = f"{len(alike)} × {found['total_steps']} steps × {found['median']:.3g} s = {format_seconds(whole)}"
        print(f"{alike[0].name}: {sum_of_kind}", flush=True)
    if kinds:
        many = f", {jobs} at a time" if jobs > 1 else ""
        print(f"cost: {format_seconds(seconds)} of training steps{many}; evaluation and data come on top", flush=True)


def environment(out: Path) -> dict[str, str]:
    """Return the environment of a sweep's processes."""
    variables = dict(os.environ)
    # Runs that differ in their seed alone compile the same step: it is compiled once.
    variables.setdefault("JAX_COMPILATION_CACHE_DIR", str(out / "compiled"))
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), variables.get("PYTHONPATH")]))
    return variables
