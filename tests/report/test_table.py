"""Rows, labels, baselines and choices, on records made up; the Pareto front."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers.batches import FIELDS

from mtlflax import tasks
from mtlflax.report import charts, summary, table
from mtlflax.report.runs import FINISHED, RunRecord
from mtlflax.run import evaluations

BOTH = (tasks.segmentation(FIELDS), tasks.depth(FIELDS))
COLUMNS = ["segmentation/miou", "depth/rmse"]


def record(path, *, miou=None, rmse=None, holdout=None, of=BOTH, seed=0, **changes):
    """A finished run in `fair/<path>`; `holdout` is its (mIoU, RMSE) on the frames held out."""
    metric = "depth/rmse" if of == BOTH[1:] else "segmentation/miou"
    config = {
        "seed": seed,
        "tasks": [task.name for task in of],
        "data": {"name": "streets", "size": [8, 16], "validation": "holdout" if holdout else "val", "root": path},
        "model": {"name": "unet", "backbone": "resnet18"},
        "optimizer": {"learning_rate": 1.0},
        "best": {"metric": f"{'holdout' if holdout else 'val'}/{metric}", "mode": "min" if of == BOTH[1:] else "max"},
        **changes,
    }
    results = {"num_val": 4, "data": "streets"}
    for split, values in (("val", (miou, rmse)), ("holdout", holdout or (None, None))):
        results |= {f"{split}/{c}": v for c, v in zip(COLUMNS, values, strict=True) if v is not None}
    full = {"config": config, "facts": {}, "fields": {}, "versions": {}, "devices": ["cpu"]}
    return RunRecord(Path("/fair") / path, full, FINISHED, [], results, evaluations.BEST, of, ())


def test_runs_that_differ_in_their_seed_alone_are_a_row():
    runs = [record(f"a/seed{i}", miou=0.5 + i / 10, rmse=0.1, seed=i) for i in range(3)]
    runs.append(record("b/seed0", miou=0.4, rmse=0.1, optimizer={"learning_rate": 2.0}))
    a, b = table.rows(runs)
    assert (a.label, len(a.runs), b.label, len(b.runs)) == ("a", 3, "b", 1)
    spread = a.score("segmentation/miou")
    assert (spread.mean, spread.deviation, spread.seeds) == (pytest.approx(0.6), pytest.approx(0.1), 3)
    (alone,) = table.rows(runs[:2])
    assert alone.label == "a"
    (named,) = table.rows([record("some_run", miou=0.5, rmse=0.1)])
    assert named.label == "some_run"


def test_delta_is_against_the_single_task_rows_of_the_same_encoder():
    other = {"name": "unet", "backbone": "densenet121"}
    runs = [
        record("both/seed0", miou=0.55, rmse=0.11),
        record("seg/seed0", miou=0.5, of=BOTH[:1]),
        record("depth/seed0", rmse=0.1, of=BOTH[1:]),
        record("seg_dense/seed0", miou=0.9, of=BOTH[:1], model=other),
        record("both_dense/seed0", miou=0.9, rmse=0.1, model=other),
    ]
    rows = {row.label: row for row in table.rows(runs)}
    compared = table.compare(rows["both"], list(rows.values()), COLUMNS)
    assert {task: row.label for task, row in compared.baselines.items()} == {"segmentation": "seg", "depth": "depth"}
    assert compared.delta_m.mean == pytest.approx((-10 + 10) / 2)
    assert compared.delta_p.mean == pytest.approx((10 - 10) / 2)
    assert compared.intervals == {}  # these runs have kept no frames
    assert table.compare(rows["both_dense"], list(rows.values()), COLUMNS) is None  # no depth alone beside it
    assert table.compare(rows["seg"], list(rows.values()), COLUMNS) is None


def grid():
    """Two rates each; what is best on val is never what is best on the frames held out."""
    runs = []
    for name, of, held in (
        ("seg", BOTH[:1], [(0.5, None), (0.4, None)]),
        ("depth", BOTH[1:], [(None, 0.2), (None, 0.1)]),
        ("ewdw", BOTH, [(0.52, 0.2), (0.45, 0.1)]),  # Δp: +4 and −100; −10 and 0
    ):
        for i, (rate, holdout) in enumerate(zip((1.0, 3.0), held, strict=True)):
            on_val = {"miou": holdout[0] and 0.9 - holdout[0], "rmse": holdout[1] and 1 - holdout[1]}
            path, optimizer = f"{name}/rate{rate:g}/seed0", {"learning_rate": rate + i}
            runs.append(record(path, **on_val, holdout=holdout, of=of, optimizer=optimizer))
    return table.rows(runs)


def test_variants_are_chosen_on_the_frames_held_out_and_never_on_val():
    rows = grid()
    chosen = table.best_of_grids(rows, COLUMNS)
    assert [row.label for row in chosen] == ["seg/rate1", "depth/rate3", "ewdw/rate3"]
    report = summary.summarize(rows)
    assert [line[0] for line in report.parts()["chosen"].cells] == ["seg/rate1", "depth/rate3", "ewdw/rate3"]
    baselines = report.comparisons["ewdw/rate1"].baselines
    assert {row.label for row in baselines.values()} == {"seg/rate1", "depth/rate3"}
    assert table.best_of_grids(table.rows([record("a/seed0", miou=0.5, rmse=0.1)]), COLUMNS) == []


def test_the_pareto_front():
    """It goes through the rows that no other beats in both."""
    scores = {"a": (0.5, 0.10), "b": (0.6, 0.12), "c": (0.4, 0.09), "d": (0.45, 0.11), "e": (0.6, 0.13)}
    optimizers = [{"learning_rate": float(i)} for i in range(5)]
    rows = table.rows(
        [record(n, miou=m, rmse=r, optimizer=o) for (n, (m, r)), o in zip(scores.items(), optimizers, strict=True)]
    )
    assert [row.label for row in charts.front(rows, COLUMNS, ["more", "less"])] == ["c", "a", "b"]
    svg = charts.pareto(rows, COLUMNS, ["more", "less"])
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert not re.search(r"<script|http://(?!www\.w3\.org)", svg)


def test_equal_charts_are_equal_bytes():
    rows = table.rows([record("a", miou=0.5, rmse=0.1)])
    assert charts.bars(rows, COLUMNS, "x") == charts.bars(rows, COLUMNS, "x")
    matrix = np.array([[3, 1, 0], [0, 5, 0], [0, 0, 0]])
    drawn = charts.confusion(matrix, ["road", "sky", "never"], "k")
    assert ">75<" in drawn.replace("\n", "")
    assert "never" not in drawn
