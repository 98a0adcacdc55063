"""Every weighting method trains for thirty steps: a small network in CI, the quick configuration in the slow tests."""

import json
import math

import pytest

from configs import weighting as weighting_config
from mtlflax import train, weighting

IN_CI = ("cagrad", "famo")  # one of each form; `test_backward` steps through all methods


def settings(name):
    config = weighting_config.get_config(f"{name},quick")
    config.data.streets.train = 40
    config.data.streets.val = 4
    config.epochs = 3.0
    config.log_every = 1
    config.evaluate_every = 3.0
    if "independent" in config.weighting:  # on four devices: a device's share is halved
        config.batch_size *= 2
        config.data.streets.train *= 2
    return config


def check_thirty_steps(config, workdir):
    results = train.train_and_evaluate(config, workdir)
    assert math.isfinite(results["val/depth/rmse"])
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss/depth" in line]
    assert len(steps) == 30
    assert all(math.isfinite(value) for line in steps for value in line.values())
    for task in ("segmentation", "depth"):
        losses = [line[f"train/loss/{task}"] for line in steps]
        assert sum(losses[-10:]) < sum(losses[:10]), task


@pytest.mark.parametrize("name", IN_CI)
def test_thirty_steps_of_a_small_network_are_finite_and_learn(name, tmp_path):
    config = settings(name)
    config.model.name = "helpers.tiny:split"
    config.data.size = (48, 96)
    check_thirty_steps(config, tmp_path / "run")


@pytest.mark.slow  # half a minute each
@pytest.mark.parametrize("name", weighting.names())
def test_thirty_steps_are_finite_and_learn(name, tmp_path):
    config = settings(name)
    config.data.size = (32, 64)
    check_thirty_steps(config, tmp_path / "run")
