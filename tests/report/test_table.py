"""Rows, labels, baselines and choices, on records made up; the Pareto front."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers.batches import FIELDS

from mtlflax import tasks
from mtlflax.report import charts, page, summary, table
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


def test_rows_have_names_of_their_own():
    """Two studies with runs of the same names: each is compared with its own."""
    rates = ({"learning_rate": 1.0}, {"learning_rate": 2.0})
    runs = []
    for folder, rate, miou in (("a", rates[0], 0.4), ("b", rates[1], 0.6)):
        runs.append(record(f"{folder}/both", miou=miou, rmse=0.1, optimizer=rate))
        runs.append(record(f"{folder}/seg", miou=0.5, of=BOTH[:1], optimizer=rate))
        runs.append(record(f"{folder}/depth", rmse=0.1, of=BOTH[1:], optimizer=rate))
    rows = table.rows(runs)
    assert [row.label for row in rows] == ["a/seg", "b/seg", "a/depth", "b/depth", "a/both", "b/both"]
    report = summary.summarize(rows)
    assert report.comparisons["a/both"].delta_m.mean == pytest.approx(10)
    assert report.comparisons["b/both"].delta_m.mean == pytest.approx(-10)
    assert report.comparisons["b/both"].baselines["depth"].label == "b/depth"
    twins = [record("same/seed0", miou=m, rmse=0.1, optimizer={"learning_rate": m}) for m in (0.1, 0.2, 0.3)]
    assert len({row.label for row in table.rows(twins)}) == 3


def test_the_same_seed_counts_once():
    runs = [
        record(f"a/{name}", miou=m, rmse=0.1, seed=s)
        for name, m, s in (("seed0", 0.5, 0), ("copy", 0.5, 0), ("seed1", 0.6, 1))
    ]
    (row,) = table.rows(runs)
    assert len(row.scored) == 2
    notes = summary.summarize([row]).notes()
    assert any("/fair/a/copy has the same configuration and seed, and is left out" in note for note in notes)


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"name": "streets", "size": [8, 16], "validation": "val", "depth": "metres"}},
        {"data": {"name": "streets", "size": [8, 16], "validation": "val", "classes": 7}},
        {"size": [16, 32]},
        {"facts": {"val_frames": "other"}},
    ],
)
def test_what_was_scored_otherwise_is_no_baseline(change):
    both, depth = record("both", miou=0.5, rmse=0.1), record("depth", rmse=0.2, of=BOTH[1:])
    seg = record("seg", miou=0.5, of=BOTH[:1])
    assert summary.summarize(table.rows([both, seg, depth])).comparisons
    other = record("depth", rmse=0.2, of=BOTH[1:], **{k: v for k, v in change.items() if k == "data"})
    if "size" in change:
        other.results["size"] = change["size"]
    other.record["facts"].update(change.get("facts", {}))
    report = summary.summarize(table.rows([both, seg, other]))
    assert not report.comparisons
    assert any(note.startswith("No Δ for both: there are no single-task networks") for note in report.notes())


def test_one_seed_makes_nothing_clear(monkeypatch):
    monkeypatch.setattr(table, "_intervals", lambda *_: dict.fromkeys(COLUMNS, (-0.2, -0.1)))
    for seeds, clear in ((1, ["", ""]), (3, ["worse", "better"])):
        runs = []
        for seed in range(seeds):
            noise = seed / 1000
            runs.append(record(f"both/seed{seed}", miou=0.4 + noise, rmse=0.05 + noise, seed=seed))
            runs.append(record(f"seg/seed{seed}", miou=0.5 + noise, of=BOTH[:1], seed=seed))
            runs.append(record(f"depth/seed{seed}", rmse=0.2 + noise, of=BOTH[1:], seed=seed))
        cells = summary.summarize(table.rows(runs)).parts()["differences"].cells
        assert [line[-1] for line in cells] == clear


def test_runs_beside_grids_keep_their_baselines():
    plain = [
        record("p/both", miou=0.5, rmse=0.1),
        record("p/seg", miou=0.5, of=BOTH[:1]),
        record("p/depth", rmse=0.1, of=BOTH[1:]),
    ]
    rows = [*grid(), *table.rows(plain)]
    report = summary.summarize(rows)
    assert {row.label for row in report.comparisons["both"].baselines.values()} == {"seg", "depth"}
    assert report.comparisons["ewdw/rate3"]


def test_charts_draw_every_row():
    many = [record(f"r{i}/seed0", miou=0.5, rmse=0.1, optimizer={"learning_rate": float(i)}) for i in range(40)]
    many.append(record("_odd/seed0", miou=0.5, rmse=0.1, optimizer={"learning_rate": 99.0}))
    rows = table.rows(many)
    svg = charts.bars(rows, COLUMNS, "x", charts.looks(rows))
    for name in (*(f"r{i}" for i in range(40)), "_odd"):
        assert re.search(rf">\s*\u200b?{name}<", svg), name


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
    svg = charts.pareto(rows, COLUMNS, ["more", "less"], charts.looks(rows))
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert not re.search(r"<script|http://(?!www\.w3\.org)", svg)


def test_equal_charts_are_equal_bytes():
    rows = table.rows([record("a", miou=0.5, rmse=0.1)])
    looks = charts.looks(rows)
    assert charts.bars(rows, COLUMNS, "x", looks) == charts.bars(rows, COLUMNS, "x", looks)
    matrix = np.array([[3, 1, 0], [0, 5, 0], [0, 0, 0]])
    drawn = charts.confusion(matrix, ["road", "sky", "never"], "k")
    assert ">75<" in drawn.replace("\n", "")
    assert "never" not in drawn


def test_rows_keep_their_colors_and_single_task_networks_are_lines_in_the_pareto_plot():
    runs = [record("seg", miou=0.4, of=BOTH[:1]), record("depth", rmse=0.2, of=BOTH[1:])]
    runs += [record(f"r{i}", miou=0.5, rmse=0.1 + i / 100, optimizer={"learning_rate": i + 2.0}) for i in range(2)]
    report = summary.summarize(table.rows(runs))
    looks = charts.looks(report.rows)
    drawn = page._results(report, looks)
    legend = re.findall(r">\s*(seg|depth|r0|r1)</", drawn[drawn.index("<svg") :])
    assert {"seg", "depth", "r0", "r1"} <= set(legend)
    for row in report.rows:
        assert looks[row.label][0].lower() in drawn
    alone = charts.bars(report.rows[2:], COLUMNS, "x", looks)
    assert looks["r0"][0].lower() in alone
    assert looks["seg"][0].lower() not in alone


def test_seeds_without_a_score_do_not_count():
    runs = [record(f"both/seed{i}", miou=0.5, rmse=0.1, seed=i) for i in range(2)]
    runs.append(record("both/seed2", holdout=(0.4, 0.2), seed=2))
    runs[2].config["data"]["validation"], runs[2].config["best"]["metric"] = "val", "val/segmentation/miou"
    cells = summary.summarize(table.rows(runs)).parts()["table"].cells
    assert [line[:2] for line in cells] == [["both", "2"]]
