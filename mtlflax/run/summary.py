"""What a run says about its evaluations: lines for the terminal, and a panel of pictures."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mtlflax.tasks import Task, pictures


def headline(tasks: Sequence[Task], results: Mapping[str, float]) -> str:
    """Return the metrics that matter most, in one line, and a note about tasks without any truth."""
    shown = [f"{name} {results[name]:.4f}" for name in _headlines(tasks, results)]
    return "  ".join(shown) + "".join(f"\n{note}" for note in _notes(tasks, results))


def summary(
    tasks: Sequence[Task], results: Mapping[str, float], step: int, size: tuple[int, int], workdir: Path
) -> str:
    """Return what is printed at the end: the headline metrics, a line each, at which size, and where everything is."""
    lines = [f"\nstep {step}, scored at {size[0]}×{size[1]}:"]
    lines += [f"  {name:<26} {results[name]:.4f}" for name in _headlines(tasks, results)]
    for split, task in itertools.product(_splits(results), tasks):
        error, constant = (results.get(f"{split}/{task.name}/{name}", math.nan) for name in ("rmse", "rmse_constant"))
        if constant > 0:
            lines.append(f"  ({split}/{task.name} RMSE is {error / constant:.2f} × the best constant's)")
    lines += _notes(tasks, results)
    lines.append(f"everything is in {workdir}: results.json, metrics.jsonl, pictures/, tensorboard/, checkpoints/")
    return "\n".join(lines)


def panel(tasks: Sequence[Task], batch: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draw one row per frame, uint8 RGB: the image, and for each task the truth, the prediction and, if drawn, errors.

    `batch` holds NumPy arrays with a leading axis of frames, and `predictions`, task → its `picture`, likewise.
    """
    truths = {task.name: np.asarray(task.truth(batch)) for task in tasks}
    rows = []
    for i, image in enumerate(batch["image"]):
        row = [image]
        for task in tasks:
            truth, prediction = truths[task.name][i], predictions[task.name][i]
            row += [task.colors(truth), task.colors(prediction)]
            row += [task.errors(truth, prediction)] if task.errors else []
        rows.append(row)
    return pictures.panel(rows)


def _splits(results: Mapping[str, float]) -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] for name in results)) or ["val"]


def _headlines(tasks: Sequence[Task], results: Mapping[str, float]) -> list[str]:
    names = [f"{split}/{task.name}/{name}" for split in _splits(results) for task in tasks for name in task.headline]
    return [name for name in names if name in results]


def _notes(tasks: Sequence[Task], results: Mapping[str, float]) -> list[str]:
    """Name the tasks for which a set has no truth at all: their first metric is missing or NaN."""
    notes = []
    for split in _splits(results):
        first = {task.name: f"{split}/{task.name}/{task.headline[0]}" for task in tasks if task.headline}
        if empty := [task for task, metric in first.items() if math.isnan(results.get(metric, math.nan))]:
            which = "validation set" if split == "val" else f"split {split}"
            notes.append(f"NOTE: no pixel of the {which} is labeled for {' or '.join(empty)}")
    return notes
