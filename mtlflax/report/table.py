"""The table of a set of runs: rows of runs that differ in their seed alone, with Δ against single-task baselines."""

import csv
import dataclasses
import io
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mtlflax.report import statistics
from mtlflax.report.runs import RunRecord
from mtlflax.report.statistics import Spread
from mtlflax.run import evaluations
from mtlflax.tasks import Task

_FREE = ("seed", "pictures", "log_every")  # keys in which runs of one row may differ, besides `_FREE_DATA` of the data
_FREE_DATA = ("root", "cache", "on_error", "num_threads", "num_workers", "prefetch")
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Row:
    """Runs of one configuration, one per seed."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def scored(self) -> list[RunRecord]:
        """The runs that have results."""
        return [run for run in self.runs if run.results]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those of the runs; () if they cannot be built."""
        return next((run.tasks for run in self.runs if run.tasks), ())

    def seeds(self, columns: Sequence[str]) -> int:
        """Return how many runs have a score in any of some columns, `task/metric`."""
        return sum(any(not math.isnan(run.score(column)) for column in columns) for run in self.scored)

    def score(self, metric: str, split: str = "val") -> Spread | None:
        """Return the mean of `task/metric` on a split and its spread over the seeds; None if no run has it."""
        values = [value for run in self.scored if not math.isnan(value := run.score(metric, split))]
        return statistics.spread(values) if values else None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How a row compares with single-task baselines: Δm and Δp in percent, and per metric the difference."""

    baselines: Mapping[str, Row]  # task → the row of its single-task network
    delta_m: Spread  # each seed against the baselines' means; lower is better
    delta_p: Spread  # higher is better
    intervals: Mapping[str, tuple[float, float]]  # task/metric → of the difference, 95 %, over frames; {} if unknown


def rows(records: Iterable[RunRecord]) -> list[Row]:
    """Group runs that differ in their seed alone; rows of one task come first, else all stay in their order."""
    groups: dict[str, list[RunRecord]] = {}
    records = list(records)
    if not records:
        return []
    for run in records:
        config = {key: value for key, value in run.config.items() if key not in _FREE}
        config["data"] = {key: value for key, value in config.get("data", {}).items() if key not in _FREE_DATA}
        groups.setdefault(json.dumps([config, run.record.get("facts", {})], sort_keys=True), []).append(run)
    folders = [run.workdir.resolve().parent for run in records]
    # A single row, or rows that lie side by side, are called as their own folders.
    root = Path(os.path.commonpath(folders)) if len(set(folders)) > 1 else folders[0].parent
    made = [
        Row(label, _by_seed(group))
        for label, group in zip(_labels(groups.values(), root), groups.values(), strict=True)
    ]
    most = max((list(row.runs[0].config.get("tasks", ())) for row in made), key=len, default=[])

    def place(row: Row) -> int:
        own = row.runs[0].config.get("tasks", ())
        return most.index(own[0]) if len(own) == 1 and own[0] in most else len(most)

    return sorted(made, key=place)


def _by_seed(group: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """One run of each seed: the same run twice would count as two seeds."""
    kept: dict[object, RunRecord] = {}
    for run in group:
        seed = run.config.get("seed")
        if seed in kept:
            first = kept[seed]
            note = f"{run.workdir} has the same configuration and seed, and is left out"
            kept[seed] = dataclasses.replace(first, notes=(*first.notes, note))
        else:
            kept[seed] = run
    return tuple(kept.values())


def is_held_out(row: Row) -> bool:
    """Whether a row's epochs were chosen on frames held out of the training set."""
    return str(row.runs[0].config["best"]["metric"]).startswith("holdout/")


def best_of_grids(table: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Return, of rows called "group/variant" whose epochs were chosen on frames held out, the best of each group.

    On those frames, single-task rows are ranked by what their epochs were chosen by (`config.best`), rows of several
    tasks by Δp against the best single-task rows, or, if those are missing, as the former. [] if there are no groups.
    """
    held = [row for row in table if row.scored and is_held_out(row)]
    groups: dict[str, list[Row]] = {}
    for row in held:
        group, _, variant = row.label.rpartition("/")
        if group and variant:
            groups.setdefault(group, []).append(row)
    if all(len(group) == 1 for group in groups.values()):
        return []
    singles = [max(group, key=_by_best) for group in groups.values() if len(group[0].tasks) == 1]

    def by_delta(row: Row) -> float:
        gains: dict[str, dict[str, float]] = {}
        for column in columns:
            task = column.partition("/")[0]
            baseline = next((each for each in singles if [t.name for t in each.tasks] == [task]), None)
            scores = [each.score(column, "holdout") if each else None for each in (row, baseline)]
            if scores[0] is None or scores[1] is None:
                return _by_best(row)
            gain = statistics.relative(scores[0].mean, scores[1].mean, minimized(row, column))
            gains.setdefault(task, {})[column] = gain
        return statistics.delta_p(gains) if gains else _by_best(row)

    return [max(group, key=_by_best if len(group[0].tasks) == 1 else by_delta) for group in groups.values()]


def _by_best(row: Row) -> float:
    best = row.runs[0].config["best"]
    values = [run.results.get(best["metric"], math.nan) for run in row.scored]
    score = float(np.nanmean(values)) if not np.all(np.isnan(values)) else -math.inf
    return score if best["mode"] == "max" else -score


def metrics(table: Sequence[Row], asked: Sequence[str] = ()) -> list[str]:
    """Return the columns, `task/metric`: those asked for, else each task's first one."""
    if asked:
        return list(asked)
    # In the order of the rows of several tasks.
    ordered = sorted(table, key=lambda row: -len(row.tasks))
    firsts = [f"{task.name}/{task.headline[0]}" for row in ordered for task in row.tasks if task.headline]
    return list(dict.fromkeys(firsts))


def minimized(row: Row, metric: str) -> bool:
    """Whether less of a metric is better; False where its task does not say."""
    task, _, name = metric.partition("/")
    of_task = next((each for each in row.tasks if each.name == task), None)
    return bool(of_task and of_task.minimized and of_task.minimized(name))


def compare(row: Row, table: Sequence[Row], columns: Sequence[str], resamples: int = RESAMPLES) -> Comparison | None:
    """Compare a row of several tasks with the single-task rows of the same encoder; None if one is missing.

    Where there are several single-task rows for a task, the one with the most of the configuration in common counts.
    """
    if len(row.tasks) < 2:
        return None
    baselines, gains = {}, []
    for task in row.tasks:
        if (baseline := _baseline(row, table, task.name)) is None:
            return None
        baselines[task.name] = baseline
    columns = [column for column in columns if column.partition("/")[0] in baselines]
    means = {column: baselines[column.partition("/")[0]].score(column) for column in columns}
    if not columns or any(mean is None or not mean.mean for mean in means.values()):
        return None
    for run in row.scored:
        of_run: dict[str, dict[str, float]] = {}
        for column, mean in means.items():
            assert mean is not None
            gain = statistics.relative(run.score(column), mean.mean, minimized(row, column))
            of_run.setdefault(column.partition("/")[0], {})[column] = gain
        if not any(math.isnan(gain) for of_task in of_run.values() for gain in of_task.values()):
            gains.append(of_run)
    if not gains:
        return None
    of_m, of_p = ([delta(gain) for gain in gains] for delta in (statistics.delta_m, statistics.delta_p))
    intervals = _intervals(row, baselines, columns, resamples)
    return Comparison(baselines, statistics.spread(of_m), statistics.spread(of_p), intervals)


def _baseline(row: Row, table: Sequence[Row], task: str) -> Row | None:
    """The single-task row of a task that has most of the configuration in common."""
    wanted = row.runs[0].config
    found = []
    for other in table:
        config = other.runs[0].config
        same = all(config.get(part, {}).get(key) == wanted.get(part, {}).get(key) for part, key in _ALIKE)
        same = same and _scored_on(other) == _scored_on(row)
        if [each.name for each in other.tasks] == [task] and same and other.scored:
            found.append((sum(config.get(key) != value for key, value in wanted.items()), other))
    return min(found, key=lambda pair: pair[0])[1] if found else None


NO_BASELINE = (
    "there are no single-task networks of the same network and encoder, with the same data, size, classes, unit of "
    "depth and validation frames"
)
_ALIKE = (
    *(("model", key) for key in ("backbone", "name")),
    *(("data", key) for key in ("name", "size", "classes", "depth", "validation")),
)


def _scored_on(row: Row) -> object:
    """The validation frames of a row, and the size at which they were scored."""
    return [(run.record.get("facts", {}).get("val_frames"), run.results.get("size")) for run in row.scored[:1]]


def _intervals(
    row: Row, baselines: Mapping[str, Row], columns: Sequence[str], resamples: int
) -> dict[str, tuple[float, float]]:
    """Bootstrap over frames: both rows on the same sets of frames, each the mean over its seeds."""
    intervals = {}
    for task in row.tasks:
        ours = [counted for run in row.scored if (counted := run.frames())]
        theirs = [counted for run in baselines[task.name].scored if (counted := run.frames())]
        if not ours or not theirs or len({counted.names for counted in ours + theirs}) > 1:
            continue
        if any(task.name not in counted.sums for counted in ours + theirs):
            continue
        times = statistics.draw(len(ours[0].names), resamples)
        a, b = ([statistics.resampled(f, task.name, task.metrics, times) for f in each] for each in (ours, theirs))
        for column in columns:
            of_task, _, name = column.partition("/")
            if of_task == task.name and all(name in each for each in a + b):
                difference = np.mean([each[name] for each in a], axis=0) - np.mean([each[name] for each in b], axis=0)
                intervals[column] = statistics.interval(difference)
    return intervals


def _labels(groups: Iterable[Sequence[RunRecord]], root: Path) -> list[str]:
    """What rows are called, each by a name of its own: as short as that allows."""
    groups = list(groups)
    short = [_label(group, root) for group in groups]
    made: list[str] = []
    for group, label in zip(groups, short, strict=True):
        if short.count(label) > 1:
            paths = [run.workdir.resolve() for run in group]
            label = ", ".join(str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in paths)
        numbered = (f"{label} ({number})" for number in itertools.count(2))
        made.append(label if label not in made else next(each for each in numbered if each not in made))
    return made


def _label(runs: Sequence[RunRecord], root: Path) -> str:
    """The folder, seen from the root, that the runs of several seeds lie in; or the names of the workdirs."""
    folders = {run.workdir.resolve().parent for run in runs}
    if len(folders) == 1 and (folder := folders.pop()) != root and all("seed" in run.workdir.name for run in runs):
        return str(folder.relative_to(root))
    return ", ".join(dict.fromkeys(run.workdir.name for run in runs))


def chosen(row: Row) -> str:
    """Say which evaluation a row's numbers are of, in words."""
    run = row.scored[0]
    size = "×".join(str(n) for n in run.results.get("size", run.config["data"]["size"]))
    best = run.config["best"]["metric"]
    step = run.results.get("step", "?")
    how = f"best epoch by {best}" if run.which == evaluations.BEST else f"last evaluation, of step {step}"
    return f"{how}; scored at {size} on {run.results.get('num_val', '?')} frames of {run.results.get('data', '?')}"


def to_csv(header: Sequence[str], cells: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *cells])
    return buffer.getvalue()


def to_markdown(header: Sequence[str], cells: Iterable[Sequence[object]]) -> str:
    """Return a table as Markdown."""
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
