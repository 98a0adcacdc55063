"""What evaluations leave in a workdir: `results.json` and `best.json`, and what was counted in each frame."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtlflax.files import write_json
from mtlflax.run import frames
from mtlflax.run.frames import Frames

LAST, BEST = "results.json", "best.json"
_FRAMES = {LAST: "frames/last.npz", BEST: "frames/best.npz"}


def write(workdir: Path, which: str, facts: Mapping[str, Any], results: Mapping[str, float], counted: Frames) -> None:
    """Write an evaluation as the `LAST` or the `BEST` of a run: facts and results flat, in one object."""
    frames.write(workdir / _FRAMES[which], counted)
    write_json(workdir / which, {**facts, **results})


def read_frames(workdir: Path, which: str) -> Frames:
    """Return what was counted in each frame of an evaluation; UserError if it is not there."""
    return frames.read(workdir / _FRAMES[which])


def best_step(workdir: Path) -> int | None:
    """Return the step that `best.json` is of; None if it is not there, or damaged."""
    try:
        step = json.loads((workdir / BEST).read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def not_finished(workdir: Path) -> None:
    """Have `finished` say so of a run that is trained on, whatever an evaluation before that has said."""
    if finished(workdir):
        content = json.loads((workdir / LAST).read_text())
        write_json(workdir / LAST, content | {"finished": False})


def finished(workdir: Path) -> bool:
    """Whether the run in a workdir has been trained to its end, and everything is written."""
    try:
        return json.loads((workdir / LAST).read_text()).get("finished") is True
    except (OSError, ValueError, AttributeError):
        return False
