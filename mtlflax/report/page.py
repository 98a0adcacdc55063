"""The page of a report: one HTML file that asks for nothing from anywhere."""

import html
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flax.traverse_util import flatten_dict

from mtlflax.data.source import Labels
from mtlflax.report import charts, pictures
from mtlflax.report.charts import Looks
from mtlflax.report.summary import CHOSEN, DIFFERENCES, Part, Report
from mtlflax.report.table import Row

_STYLE = (Path(__file__).parent / "page.css").read_text()


def page(report: Report, title: str) -> str:
    """Return the page as HTML; UserError if Matplotlib is not installed."""
    charts.check()
    looks = charts.looks(report.rows)
    rows = [row for row in report.rows if any(run.history or run.results for run in row.runs)]
    sections = [
        ("Results", _results(report, looks)),
        ("Learning curves", _curves(report, rows, looks)),
        ("Weights", _by_row(rows, charts.weights)),
        ("Cosines of task gradients", _by_row(rows, charts.cosines)),
        ("Classes", _classes(rows, looks)),
        ("Depth error", _depth(rows, looks)),
        ("Pictures", pictures.figures(rows)),
        ("Configurations", _configs(report.rows)),
        ("Runs", _runs(report.rows)),
    ]
    sections = [(name, body) for name, body in sections if body]
    anchors = [f'<a href="#{_anchor(name)}">{name}</a>' for name, _ in sections]
    parts = [f'<section id="{_anchor(name)}"><h2>{name}</h2>{body}</section>' for name, body in sections]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1><nav>{' '.join(anchors)}</nav>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _results(report: Report, looks: Looks) -> str:
    parts = report.parts()
    texts = [_table(parts["table"])] if "table" in parts else ["<p>No run has been evaluated yet.</p>"]
    if "chosen" in parts:
        texts += [f"<p>{CHOSEN}</p>", _table(parts["chosen"])]
    if len(report.columns) == 2 and (drawn := [row for row in report.rows if all(map(row.score, report.columns))]):
        better = ["less" if report.minimized(column) else "more" for column in report.columns]
        label = (
            f"Pareto plot: {' and '.join(f'{b} {c}' for b, c in zip(better, report.columns, strict=True))} is better"
        )
        against = {row.label: row for c in report.comparisons.values() for row in c.baselines.values()}
        svg = charts.pareto(drawn, report.columns, better, looks, chosen=report.chosen, baselines=[*against.values()])
        texts.append(_figure(svg, label))
    if "differences" in parts:
        texts.append(f"<p>{DIFFERENCES}</p>")
        texts.append(_table(parts["differences"]))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes())
    return "".join(texts) + f"<ul>{notes}</ul>"


def _curves(report: Report, rows: Sequence[Row], looks: Looks) -> str:
    found = []
    for task in dict.fromkeys(task.name for row in rows for task in row.tasks):
        names = [(f"train/loss/{task}", f"training loss, {task}")]
        for split in dict.fromkeys(str(run.config["best"]["metric"]).partition("/")[0] for r in rows for run in r.runs):
            columns = [column for column in report.columns if column.startswith(f"{task}/")]
            names += [(f"{split}/{column}", f"{split} {column}") for column in columns]
        for name, label in names:
            drawn = [row for row in rows if any(run.series(name)[0] for run in row.runs)]
            if drawn:
                found.append(_figure(charts.curves(drawn, name, label, looks), label))
    return "".join(found)


def _by_row(rows: Sequence[Row], draw: Callable[[Row], str]) -> str:
    figures = [_figure(svg, row.label) for row in rows if (svg := draw(row))]
    return f'<div class="small">{"".join(figures)}</div>' if figures else ""


def _classes(rows: Sequence[Row], looks: Looks) -> str:
    """Per-class IoU of all rows, and the confusion matrix of each row's first run, folded."""
    found = [_bars(rows, "iou", "IoU of each class", "IoU", looks)]
    for row in rows:
        counted = row.scored[0].frames() if row.scored else None
        for task, sums in counted.sums.items() if counted else ():
            field = row.scored[0].fields.get(task)
            if "confusion" in sums and isinstance(field, Labels):
                svg = charts.confusion(sums["confusion"].sum(axis=0), field.names, f"{row.label} {task}")
                label = f"Confusion matrix of {task}, {row.label}: percent of each true class"
                found.append(f"<details><summary>{html.escape(label)}</summary>{_figure(svg, label)}</details>")
    return "".join(found)


def _depth(rows: Sequence[Row], looks: Looks) -> str:
    titles = {"mae_metres": "by true distance in metres", "class_mae_metres": "at the pixels of each class"}
    drawn = [_bars(rows, name, f"Mean absolute error {title}", "metres", looks) for name, title in titles.items()]
    return "".join(drawn)


def _bars(rows: Sequence[Row], metric: str, title: str, label: str, looks: Looks) -> str:
    """Bars for every result `task/metric/...`, a chart for each task."""
    found = []
    for task in dict.fromkeys(task.name for row in rows for task in row.tasks):
        prefix = f"val/{task}/{metric}/"
        names = [name for row in rows for run in row.scored for name in run.results if name.startswith(prefix)]
        names = [name.removeprefix("val/") for name in dict.fromkeys(names)]
        scored = [row for row in rows if any(row.score(name) for name in names)]
        if scored:
            svg = charts.bars(scored, names, label, looks, strip=f"{task}/{metric}/")
            found.append(_figure(svg, f"{title}, {task}"))
    return "".join(found)


def _configs(rows: Sequence[Row]) -> str:
    """The keys in which rows differ."""
    flat = [flatten_dict(row.runs[0].config, sep=".") for row in rows]
    keys = sorted({key for each in flat for key in each if key != "seed"})
    absent = object()
    differing = [key for key in keys if len({repr(each.get(key, absent)) for each in flat}) > 1]
    cells = [[key, *[_short(each[key]) if key in each else "–" for each in flat]] for key in differing]
    if not cells:
        return "<p>All the same, but for the seed.</p>"
    return _table(Part(["key", *[row.label for row in rows]], cells))


def _runs(rows: Sequence[Row]) -> str:
    pairs = [(row, run) for row in rows for run in row.runs]
    versions = [" ".join(f"{k} {v}" for k, v in run.record.get("versions", {}).items()) for _, run in pairs]
    header, cells = ["run", "model", "seed", "state", "steps", "seconds per step", "devices"], []
    for (row, run), of_run in zip(pairs, versions, strict=True):
        devices = run.record.get("devices", [])
        kinds = ", ".join(f"{devices.count(kind)} × {kind}" for kind in dict.fromkeys(devices))
        steps = str(run.history[-1]["step"]) if run.history else "0"
        seconds = "" if math.isnan(run.seconds_per_step) else f"{run.seconds_per_step:.4g}"
        line = [str(run.workdir), row.label, str(run.config.get("seed", "")), run.status, steps, seconds, kinds]
        cells.append(line if len(set(versions)) == 1 else [*line, of_run])
    if len(set(versions)) == 1:
        return f"{_table(Part(header, cells))}<p>All with {html.escape(versions[0])}.</p>"
    return _table(Part([*header, "versions"], cells))


def _table(part: Part) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in part.header)
    body = "".join(f"<tr>{_cells(line)}</tr>" for line in part.cells)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(line: Iterable[str]) -> str:
    first, *rest = line
    return f"<th>{html.escape(first)}</th>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)


def _figure(svg: str, label: str) -> str:
    label = html.escape(label)
    return f'<figure role="img" aria-label="{label}">{svg}<figcaption>{label}</figcaption></figure>'


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
