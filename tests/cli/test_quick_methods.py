"""Every weighting method trains for thirty steps: a small network in CI, the quick configuration in the slow tests."""

import math

import pytest
from helpers.commands import history, results, run
from ml_collections.config_flags.config_path import get_value

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
    if "independent" in config.weighting:  # a device's share is halved
        config.batch_size *= 2
        config.data.streets.train *= 2
    return config


def check_thirty_steps(workdir):
    assert math.isfinite(results(workdir)["val/depth/rmse"])
    steps = [line for line in history(workdir) if "train/loss/depth" in line]
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
    train.train_and_evaluate(config, tmp_path / "run")
    check_thirty_steps(tmp_path / "run")


@pytest.mark.slow  # a minute each, in a process of its own: simulated devices would each move all parameters
@pytest.mark.parametrize("name", weighting.names())
def test_thirty_steps_are_finite_and_learn(name, tmp_path):
    config = settings(name)
    keys = ("batch_size", "epochs", "log_every", "evaluate_every", "data.streets.train", "data.streets.val")
    values = [f"--config.{key}={get_value(key, config)}" for key in keys]
    run([f"--config=configs/weighting.py:{name},quick", f"--workdir={tmp_path / 'run'}", *values])
    check_thirty_steps(tmp_path / "run")
