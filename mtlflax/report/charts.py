"""The charts of a report, as SVG that takes the text color of the page around it.

Matplotlib draws them: it is kept well, needs no JavaScript, and its SVG prints as sharply as it is shown.
"""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtlflax.errors import UserError
from mtlflax.report.table import Row

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError:  # the extra `report` is not installed
    mpl = None  # type: ignore[assignment]

# Okabe and Ito's colors, which people tell apart who do not see all of them.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A8A00", "#7F7F7F")
_STYLES = ("-", "--", ":", "-.")
Looks = Mapping[str, tuple[str, str]]  # label of a row → color, line style
_TEXT = "#123456"  # replaced by the color of the page's text
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "grid.color": _TEXT,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def check() -> None:
    """Raise UserError if Matplotlib is not installed."""
    if mpl is None:
        raise UserError("a page needs Matplotlib: pip install -e '.[report]', or pip install matplotlib")


def looks(rows: Sequence[Row]) -> Looks:
    """Return the color and the line style of each row, by its label: the same in all charts of a page."""
    return dict(zip([row.label for row in rows], _looks(), strict=False))


def curves(rows: Sequence[Row], name: str, label: str, looks: Looks) -> str:
    """Draw one name of metrics.jsonl over the steps, a line per row: the mean over seeds, and their range."""
    figure, axes = _figure(7, 3)
    for row in rows:
        color, style = looks[row.label]
        series = [dict(zip(*run.series(name), strict=True)) for run in row.runs]
        steps = sorted(set.union(set(), *series))
        if not steps:
            continue
        values = np.array([[of_run.get(step, np.nan) for step in steps] for of_run in series])
        mean, low, high = _ignoring_nan(values)
        axes.plot(
            steps, mean, color=color, linestyle=style, label=_shown(row.label), marker="." if len(steps) < 3 else ""
        )
        if len(series) > 1:
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    _legend(axes)
    return _svg(figure, f"curves {name}")


def weights(row: Row) -> str:
    """Draw the weights of a row's tasks over the steps, of its first run; '' for one task, or a method without any."""
    run = row.runs[0]
    series = {task: run.series(f"train/weight/{task}") for task in _tasks_of(run.history, "train/weight/")}
    return lines(series, "weight", f"weights {row.label}") if len(series) > 1 else ""


def cosines(row: Row) -> str:
    """Draw the cosines of pairs of task gradients over the steps, of a row's first run; '' if none were measured."""
    run = row.runs[0]
    series: dict[str, tuple[list[int], list[float]]] = {}
    for prefix in ("train/cosine/", "diagnostics/cosine/"):
        for pair in _tasks_of(run.history, prefix):
            series.setdefault(pair.replace("/", " · "), run.series(prefix + pair))
    return lines(series, "cosine", f"cosines {row.label}")


def lines(series: Mapping[str, tuple[Sequence[int], Sequence[float]]], label: str, key: str) -> str:
    """Draw several lines over the steps: name → steps, values; '' if there are none."""
    if not series:
        return ""
    figure, axes = _figure(4.5, 2.2)
    for (name, (steps, values)), (color, style) in zip(series.items(), _looks(), strict=False):
        axes.plot(steps, values, color=color, linestyle=style, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    _legend(axes)
    return _svg(figure, key)


def bars(rows: Sequence[Row], names: Sequence[str], label: str, looks: Looks, strip: str = "") -> str:
    """Draw several results, `task/metric`, as groups of bars, one bar per row: means over seeds, with deviations."""
    figure, axes = _figure(7, 0.6 + 0.14 * len(names) * (len(rows) + 1))
    height = 1 / (len(rows) + 1)
    for i, row in enumerate(rows):
        found = [row.score(name) for name in names]
        places = np.arange(len(names)) + i * height
        means = [np.nan if each is None else each.mean for each in found]
        deviations = [0.0 if each is None or np.isnan(each.deviation) else each.deviation for each in found]
        color = looks[row.label][0]
        axes.barh(places, means, height * 0.9, xerr=deviations, color=color, label=_shown(row.label), ecolor=_TEXT)
    axes.set_yticks(np.arange(len(names)) + (len(rows) - 1) * height / 2, [name.removeprefix(strip) for name in names])
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    _legend(axes, top=True)
    return _svg(figure, f"bars {' '.join(names)}")


def pareto(
    rows: Sequence[Row],
    columns: Sequence[str],
    better: Sequence[str],
    looks: Looks,
    *,
    chosen: Sequence[Row] = (),
    baselines: Sequence[Row] = (),
) -> str:
    """Draw rows by two metrics, with deviations, and the front of those that no other row beats in both.

    `better` is "more" or "less" for each column; rows that were chosen have larger marks. Rows whose labels have the
    same first part, "group/variant", share a mark and a color of their own. Baselines, which have one of the metrics
    alone, are lines.
    """
    figure, axes = _figure(7, 4.5)
    groups = list(dict.fromkeys(row.label.partition("/")[0] for row in rows))
    grouped = len(groups) < len(rows)
    marks = dict(zip(groups, itertools.cycle(itertools.product("osD^vP", _COLORS)), strict=False))
    points, deviations = _points(rows, columns)
    named = set()
    for row, (x, y), errors in zip(rows, points, np.nan_to_num(deviations), strict=True):
        group = row.label.partition("/")[0]
        marker, color = marks[group] if grouped else ("o", looks[row.label][0])
        size = 9 if row in chosen else 5
        label = group if group not in named else None
        named.add(group)
        axes.errorbar(x, y, errors[1], errors[0], fmt=marker, color=color, markersize=size, elinewidth=0.7, label=label)
    best = [rows.index(row) for row in front(rows, columns, better)]
    axes.plot(points[best, 0], points[best, 1], color=_TEXT, linewidth=0.8, linestyle=":", zorder=0)
    for row in baselines:
        color, style = looks[row.label]
        for column, draw in zip(columns, (axes.axvline, axes.axhline), strict=True):
            if (score := row.score(column)) is not None:
                draw(score.mean, color=color, linestyle=style, linewidth=0.8, label=_shown(row.label))
    axes.set_xlabel(columns[0])
    axes.set_ylabel(columns[1])
    _legend(axes)
    return _svg(figure, f"pareto {' '.join(columns)}")


def front(rows: Sequence[Row], columns: Sequence[str], better: Sequence[str]) -> list[Row]:
    """Return the rows that no other row beats in some metric without being worse in another, by the first metric."""
    signs = np.array([1 if each == "more" else -1 for each in better])
    points = signs * _points(rows, columns)[0]
    kept = [i for i, p in enumerate(points) if not any((q >= p).all() and (q > p).any() for q in points)]
    return [rows[i] for i in sorted(kept, key=lambda i: points[i, 0] * signs[0])]


def _points(rows: Sequence[Row], columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The means and the deviations of rows that have every column, [rows, columns] each."""
    spreads = [[spread for column in columns if (spread := row.score(column))] for row in rows]
    return np.array([[s.mean for s in line] for line in spreads]), np.array(
        [[s.deviation for s in line] for line in spreads]
    )


def confusion(matrix: np.ndarray, names: Sequence[str], key: str) -> str:
    """Draw a confusion matrix, integers [C, C], rows = truth: the share of each true class's pixels, in percent."""
    present = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1))
    matrix = matrix[np.ix_(present, present)]
    shown = [names[int(i)] for i in present]
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.32 * len(shown)
    figure, axes = _figure(side, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for i, j in itertools.product(range(len(shown)), repeat=2):
        if shares[i, j] >= 0.5:
            color = "white" if shares[i, j] > 55 else "black"
            axes.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(range(len(shown)), shown, rotation=90)
    axes.set_yticks(range(len(shown)), shown)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(visible=False)
    return _svg(figure, f"confusion {key}")


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def _looks() -> Any:
    return itertools.cycle((color, style) for style in _STYLES for color in _COLORS)


def _shown(label: str) -> str:
    """A label for a legend: Matplotlib leaves out those that begin with "_"."""
    return f"\u200b{label}" if label.startswith("_") else label


def _legend(axes: "Axes", *, top: bool = False) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        height = 1.0 if top else 0.5
        loc: Any = "upper left" if top else "center left"
        axes.legend(handles, labels, fontsize=8, frameon=False, loc=loc, bbox_to_anchor=(1.0, height))


def _ignoring_nan(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean, the smallest and the largest over the first axis; every column has a number."""
    return np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0)


def _tasks_of(history: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    return list(
        dict.fromkeys(name.removeprefix(prefix) for line in history for name in line if name.startswith(prefix))
    )


def _svg(figure: "Figure", key: str) -> str:
    """The SVG element; ids depend on the key, so that those of two charts on a page differ."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    used = set(re.findall(r"#([\w-]+)", svg))  # names that nothing refers to would be on the page once per chart
    svg = re.sub(r' id="([\w.-]+)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
