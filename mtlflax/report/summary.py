"""The parts of a report that are text: the table, the differences, and notes on what the numbers are."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mtlflax import experiment
from mtlflax.errors import UserError
from mtlflax.models import cost
from mtlflax.report import statistics, table
from mtlflax.report.runs import FINISHED
from mtlflax.report.statistics import Spread
from mtlflax.report.table import Comparison, Row

DELTAS = (
    "Δm: mean over metrics of how much worse they are than the single-task networks', in percent; lower is better "
    "(MTAN, Nash-MTL). Δp: mean over tasks of how much better their metrics are; higher is better (LibMTL, DB-MTL). "
    "± is over a row's own seeds, each against the mean of the single-task networks; their own spread comes on top."
)
CHOSEN = "Of each grid the variant that was best on the frames held out, scored on val, on which nothing was chosen:"
STEP_TIME = "s / step"  # data included; the median of a run, and their mean
DIFFERENCES = (
    "Differences to the single-task networks: means over seeds, with 95 % intervals by paired bootstrap over frames; "
    "± of seeds is half of a 95 % interval over seeds (Welch). A difference is clear if it is beyond both; "
    "with one seed none is."
)


class Part(NamedTuple):
    """A table: what stands above its columns, and its cells."""

    header: list[str]
    cells: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Report:
    """Rows, columns, and how rows compare with their baselines."""

    rows: list[Row]
    columns: list[str]  # task/metric
    comparisons: dict[str, Comparison]  # label → against the single-task rows
    chosen: list[Row]  # of grids, the rows that were best on frames held out

    def parts(self) -> dict[str, Part]:
        """Return the tables by name; those without rows are left out."""
        parts = {"table": self._table(self.rows), "chosen": self._table(self.chosen)}
        parts |= {"differences": self._differences()}
        return {name: part for name, part in parts.items() if part.cells}

    def notes(self) -> list[str]:
        """Return what must be known to read the numbers, and what is wrong with the runs."""
        said: dict[str, list[str]] = {}
        for row in self.rows:
            if row.scored:
                said.setdefault(table.chosen(row), []).append(row.label)
        notes = [f"{', '.join(labels)}: {text}." for text, labels in said.items()]
        if self.comparisons:
            notes.append(DELTAS)
        several = [row.label for row in self.rows if len(row.tasks) > 1 and row.label not in self.comparisons]
        if several and any(len(row.tasks) == 1 for row in self.rows):
            notes.append(f"No Δ for {', '.join(several)}: {table.NO_BASELINE}.")
        for row in self.rows:
            for run in row.runs:
                if run.status != FINISHED:
                    step = run.history[-1]["step"] if run.history else 0
                    notes.append(f"{run.workdir} is {run.status} at step {step}.")
                notes += [f"{run.workdir}: {note}." for note in run.notes]
        return notes

    def markdown(self) -> str:
        """Return everything as Markdown."""
        parts = self.parts()
        texts = [table.to_markdown(*parts["table"])] if "table" in parts else []
        if "chosen" in parts:
            texts.append(f"{CHOSEN}\n")
            texts.append(table.to_markdown(*parts["chosen"]))
        if "differences" in parts:
            texts.append(f"{DIFFERENCES}\n")
            texts.append(table.to_markdown(*parts["differences"]))
        return "\n".join([*texts, *[f"- {note}" for note in self.notes()]]) + "\n"

    def _table(self, rows: Sequence[Row]) -> Part:
        header = ["model", "seeds"]
        header += [f"{column} {'↓' if self.minimized(column) else '↑'}" for column in self.columns]
        header += ["Δm % ↓", "Δp % ↑"] * bool(self.comparisons) + ["parameters", "multiply-adds", STEP_TIME]
        cells = []
        for row in rows:
            line = [row.label, str(row.seeds(self.columns))]
            line += [_spread(row.score(column), 4) for column in self.columns]
            if self.comparisons:
                compared = self.comparisons.get(row.label)
                line += [_spread(compared.delta_m, 2), _spread(compared.delta_p, 2)] if compared else ["", ""]
            times = [run.seconds_per_step for run in row.runs if not math.isnan(run.seconds_per_step)]
            cells.append([*line, *_cost(row.runs[0].workdir), f"{sum(times) / len(times):.3g}" if times else ""])
        return Part(header, cells)

    def _differences(self) -> Part:
        cells = []
        for row in self.rows:
            if not (compared := self.comparisons.get(row.label)):
                continue
            for column, (low, high) in compared.intervals.items():
                baseline = compared.baselines[column.partition("/")[0]]
                ours, theirs = row.score(column), baseline.score(column)
                assert ours is not None
                assert theirs is not None
                difference, noise = ours.mean - theirs.mean, statistics.seed_noise(ours, theirs)
                # Beyond what other frames would give, and beyond what other seeds would, if there are any.
                clear = not low <= 0 <= high and abs(difference) > noise
                verdict = "better" if (difference < 0) == self.minimized(column) else "worse"
                numbers = [f"{difference:+.4f}", f"{low:+.4f}", f"{high:+.4f}"]
                seeds = "" if math.isnan(noise) else f"{noise:.4f}"
                cells.append([row.label, column, baseline.label, *numbers, seeds, verdict if clear else ""])
        header = ["model", "metric", "against", "difference", "from", "to", "± of seeds", "clear"]
        return Part(header, cells)

    def minimized(self, column: str) -> bool:
        """Whether less of a column is better."""
        return any(table.minimized(row, column) for row in self.rows)


def summarize(rows: list[Row], asked: Sequence[str] = ()) -> Report:
    """Return the report on some rows, with the columns asked for, or the first metric of each task.

    UserError for a column that no run has.
    """
    columns = table.metrics(rows, asked)
    for column in asked:
        if not any(row.score(column) for row in rows):
            known = {
                name.partition("/")[2] for row in rows for run in row.scored for name in run.results if "/" in name
            }
            raise UserError(f"--metrics: no run has {column!r}; there are {', '.join(sorted(known))}")
    chosen = table.best_of_grids(rows, columns)
    # Baselines, too, are those that were chosen, of grids.
    candidates = chosen + [row for row in rows if not table.is_held_out(row)] if chosen else rows
    compared = {row.label: table.compare(row, candidates, columns) for row in rows}
    return Report(rows, columns, {label: c for label, c in compared.items() if c is not None}, chosen)


def _spread(value: Spread | None, digits: int) -> str:
    if value is None:
        return ""
    deviation = "" if math.isnan(value.deviation) else f" ± {value.deviation:.{digits}f}"
    return f"{value.mean:.{digits}f}{deviation}"


@functools.cache  # a network is traced for it, and a row is in several tables
def _cost(workdir: Path) -> list[str]:
    """The parameters and the multiply-adds of a run's network; empty if it cannot be built any more."""
    try:
        network = experiment.load(workdir)
        parameters, operations = cost.count(network.model, network.size)
    except (UserError, ValueError, TypeError):
        return ["", ""]
    return [f"{parameters / 1e6:.4g} M", f"{operations / 1e9:.4g} G"]
