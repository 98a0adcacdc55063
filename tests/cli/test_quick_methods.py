"""Every weighting method trains the quick configuration for thirty steps."""

import json
import math

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from configs import weighting as weighting_config
from mtlflax import train, weighting

IN_CI = ("cagrad", "famo")  # of each kind; the others take most of an hour together


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Initialisation and evaluation are the same programs for every method."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


def settings(name):
    config = weighting_config.get_config(f"{name},quick")
    config.data.streets.train = 120
    config.data.streets.val = 4
    config.epochs = 1.0
    config.log_every = 1
    if "independent" in config.weighting:  # on four devices: a device's share is halved
        config.batch_size *= 2
        config.data.streets.train *= 2
    return config


@pytest.mark.parametrize(
    "name", [name if name in IN_CI else pytest.param(name, marks=pytest.mark.slow) for name in weighting.names()]
)
def test_thirty_steps_are_finite_and_learn(name, tmp_path):
    results = train.train_and_evaluate(settings(name), tmp_path / "run")
    assert math.isfinite(results["val/depth/rmse"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss/depth" in line]
    assert len(steps) == 30
    assert all(math.isfinite(value) for line in steps for value in line.values())
    for task in ("segmentation", "depth"):
        losses = [line[f"train/loss/{task}"] for line in steps]
        assert sum(losses[-10:]) < sum(losses[:10]), task
