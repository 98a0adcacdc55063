"""Trackers beside TensorBoard: each gets what the run writes, is resumed with it, and never ends it."""

import sys
import types

import numpy as np
import pytest
from helpers.recorder import Recorder
from ml_collections import ConfigDict

from mtlflax.errors import UserError
from mtlflax.run import writers
from mtlflax.run.metric_writer import MetricWriter

CONFIG = ConfigDict({"seed": 3, "optimizer": {"learning_rate": 0.1}})
IMAGE = np.zeros((4, 6, 3), np.uint8)


def test_a_writer_of_ones_own_gets_everything(tmp_path):
    (made,) = writers.make(["helpers.recorder:Recorder"], CONFIG, tmp_path)
    writer = MetricWriter(tmp_path, others=lambda: [made])
    writer.scalars(2, {"train/loss/depth": 0.5})
    writer.picture(2, "val", IMAGE)
    writer.close()
    assert made.said == [(2, {"train/loss/depth": 0.5}), (2, "val", (4, 6, 3)), "closed"]
    with pytest.raises(UserError, match="gives a list, without scalars, picture and close"):
        writers.make(["helpers.recorder:nothing"], CONFIG, tmp_path)


def test_one_that_fails_is_said_once_and_does_not_end_the_run(tmp_path, capsys):
    broken = Recorder(CONFIG, tmp_path)
    broken.scalars = broken.picture = lambda *_: 1 / 0
    writer = MetricWriter(tmp_path, others=lambda: [broken])
    for step in (1, 2):
        writer.scalars(step, {"a": 1.0})
    writer.picture(2, "val", IMAGE)
    writer.close()
    assert capsys.readouterr().err.count("NOTE: Recorder fails (division by zero)") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert broken.said == ["closed"]


def test_one_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch):
    def init(**options):
        raise RuntimeError("api_key not configured (no-tty). call wandb.login()")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(UserError, match=r"config\.writers: wandb cannot be opened: .*api_key not configured"):
        writers.make(["wandb"], CONFIG, tmp_path)


def test_names_are_checked_before_a_run_begins(monkeypatch):
    with pytest.raises(UserError, match=r"unknown writer 'wandbb'"):
        writers.check(["wandbb"])
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match="'trackio', which is not installed: pip install trackio"):
        writers.check(["trackio"])
    writers.check([])


def test_weights_and_biases_is_given_one_run_per_workdir(tmp_path, monkeypatch):
    """By a stand-in for the library: what it is called with."""
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    def init(**options):
        calls.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Image=lambda image: image.shape))
    for _ in range(2):
        (made,) = writers.make(["wandb"], CONFIG, tmp_path / "run")
    made.scalars(4, {"val/depth/rmse": 0.1})
    made.picture(4, "val", IMAGE)
    made.close()
    first, second, *rest = calls
    assert first == second  # the same identity: the tracker resumes it
    assert (first["name"], first["resume"], first["config"]) == ("run", "allow", CONFIG.to_dict())
    assert rest == [(4, {"val/depth/rmse": 0.1}), (4, {"pictures/val": (4, 6, 3)}), "finished"]


def test_mlflow_in_a_folder(tmp_path, monkeypatch):
    """The library itself, if it is installed."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for step in (1, 2):
        (made,) = writers.make(["mlflow"], CONFIG, tmp_path / "run")
        made.scalars(step, {"val/depth/rmse": 1.0 / step})
        made.close()
    (run,) = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("mtlflax").experiment_id])
    assert run.data.metrics["val/depth/rmse"] == 0.5
    assert run.data.params["optimizer.learning_rate"] == "0.1"
