"""Runs as a report reads them: from what is in their workdirs, whether they are finished, going on, or died."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mtlflax import tasks
from mtlflax.data import field_json
from mtlflax.data.source import Field
from mtlflax.errors import UserError
from mtlflax.run import evaluations
from mtlflax.run import workdir as workdirs
from mtlflax.run.frames import Frames
from mtlflax.tasks import Task

FINISHED, RUNNING, STOPPED = "finished", "running", "stopped"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a workdir says about its run."""

    workdir: Path
    record: dict[str, Any]  # config.json
    status: str  # FINISHED, RUNNING, or STOPPED before its end
    history: list[dict[str, Any]]  # the lines of metrics.jsonl
    results: dict[str, Any]  # {} before the first evaluation
    which: str  # the file that they are from: evaluations.BEST, evaluations.LAST, or ""
    tasks: tuple[Task, ...]  # () if a module that the run names is gone
    notes: tuple[str, ...]  # what is damaged or missing

    @property
    def config(self) -> dict[str, Any]:
        """As the run has recorded it."""
        return self.record["config"]

    @property
    def fields(self) -> dict[str, Field]:
        """Of its data set."""
        return field_json.from_json(self.record["fields"])

    def score(self, metric: str, split: str = "val") -> float:
        """Return the result `task/metric` on a split; NaN if there is none."""
        value = self.results.get(f"{split}/{metric}")
        return float(value) if isinstance(value, int | float) else np.nan

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Return the steps and the values of one name in metrics.jsonl."""
        pairs = [(line["step"], line[name]) for line in self.history if isinstance(line.get(name), int | float)]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def frames(self) -> Frames | None:
        """Return what was counted in each frame of the evaluation that `results` are from; None if it is not there."""
        with contextlib.suppress(UserError):
            return evaluations.read_frames(self.workdir, self.which) if self.which else None
        return None

    @property
    def seconds_per_step(self) -> float:
        """The median time of a train step, data included, of those that metrics.jsonl tells the speed of; or NaN."""
        _, speeds = self.series("train/images_per_second")
        return float(self.config["batch_size"] / np.median(speeds)) if speeds else np.nan


def find(folders: Iterable[Path]) -> list[Path]:
    """Return the workdirs in some folders, at any depth, sorted, each once; UserError if there are none."""
    found: dict[Path, Path] = {}
    folders = list(folders)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        for path in sorted(folder.rglob("config.json")):
            if "checkpoints" not in path.relative_to(folder).parts:
                found.setdefault(path.parent.resolve(), path.parent)
    if not found:
        raise UserError(f"{', '.join(map(str, folders))} holds no runs: no config.json in it or below")
    return list(found.values())


def read_all(workdirs: Iterable[Path], prefer: str = evaluations.BEST) -> tuple[list[RunRecord], list[str]]:
    """Read runs, as `read` does; return them, and why others cannot be read. UserError if none can."""
    records, wrong = [], []
    for workdir in workdirs:
        try:
            records.append(read(workdir, prefer))
        except UserError as error:
            wrong.append(f"{workdir} is left out: {error}")
    if not records:
        raise UserError(wrong[0])
    return records, wrong


def read(workdir: Path, prefer: str = evaluations.BEST) -> RunRecord:
    """Read a run, with the results of `prefer`, evaluations.BEST or LAST, or of the other where there is none.

    UserError if its config.json cannot be read. What else is damaged or missing becomes a note.
    """
    notes = []
    workdirs.load(workdir)  # checks it, and has the run's own modules found
    record = json.loads((workdir / "config.json").read_text())
    history, damaged = _read_history(workdir / "metrics.jsonl")
    if damaged:
        notes.append(f"{damaged} lines of metrics.jsonl are damaged and left out")
    results: dict[str, Any] = {}
    which = ""
    for name in sorted((evaluations.BEST, evaluations.LAST), key=lambda name: name != prefer):
        try:
            content = json.loads((workdir / name).read_text())
            if not isinstance(content, dict):
                raise ValueError("not an object")
            results, which = content, name
            break
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            notes.append(f"{name} cannot be read ({error})")
    unfinished = RUNNING if workdirs.is_locked(workdir) else STOPPED
    status = FINISHED if evaluations.finished(workdir) else unfinished
    try:
        made = tasks.from_config(ConfigDict(record["config"]), field_json.from_json(record["fields"]))
    except (UserError, ValueError, KeyError, AttributeError, TypeError) as error:
        notes.append(f"its tasks cannot be built, so nothing is compared frame by frame: {error}")
        made = ()
    return RunRecord(workdir, record, status, history, results, which, made, tuple(notes))


def _read_history(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines that can be read, and the number of those that cannot; a last one that is being written is no fault."""
    lines, damaged = [], 0
    try:
        texts = path.read_text(errors="replace").split("\n")
    except OSError:
        return [], 0
    for i, text in enumerate(texts):
        try:
            line = json.loads(text)
            if not isinstance(line.get("step"), int):
                raise ValueError("no step")
            lines.append(line)
        except (ValueError, AttributeError):
            damaged += bool(text.strip()) and i < len(texts) - 1
    return lines, damaged
