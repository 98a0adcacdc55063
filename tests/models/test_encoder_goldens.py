"""The encoders against what torchvision's computed where there was torch: `goldens/make_encoder_goldens.py`."""

from functools import partial

import jax
import numpy as np
import pytest
from helpers.goldens import make_encoder_goldens as goldens
from helpers.torch_shapes import torch_shapes

from mtlflax import models

SLOW = [("resnet50", "even"), ("densenet121", "even")]
EVALUATED = [(backbone, size) for backbone in goldens.BACKBONES for size in goldens.SIZES]


def marked(cases, slow):
    return [pytest.param(*case, marks=pytest.mark.slow if case in slow else ()) for case in cases]


@pytest.fixture(scope="module")
def expected():
    with np.load(goldens.PATH) as archive:
        return dict(archive)


def run(backbone, size, dtype, train):
    """Our five maps, and the variables with the running statistics that are left behind."""
    weights = goldens.state_dict(torch_shapes(backbone))
    variables = models.pretrained.convert(backbone, weights)
    apply = jax.jit(partial(models.encoder(backbone, dtype=dtype).apply, train=train, mutable=["batch_stats"]))
    with jax.default_matmul_precision("highest"):
        features, updated = apply(variables, goldens.images(size).astype(dtype))
    return features, {"params": variables["params"], "batch_stats": updated["batch_stats"]}


def assert_same(ours, theirs, tolerance):
    """Of the norm and the largest magnitude each, of values and sum by what they are summed from."""
    ours, largest, norm = goldens.sample(ours), theirs[-1], theirs[-3]
    np.testing.assert_allclose(ours[:64], theirs[:64], rtol=0, atol=tolerance * largest)
    np.testing.assert_allclose(ours[-3:], theirs[-3:], rtol=tolerance, atol=tolerance * norm)


def test_the_file_is_whole_and_small(expected):
    strides = [f"stride{2**i}" for i in range(1, 6)]
    names = {
        f"{backbone}/{size}/{mode}/{what}"
        for backbone, size in EVALUATED
        for mode in ("evaluation", "training")
        for what in [*strides, *(["statistics"] if mode == "training" else [])]
    }
    assert expected.keys() == names
    assert goldens.PATH.stat().st_size < 100_000


@pytest.mark.parametrize(("backbone", "size"), marked(EVALUATED, SLOW))
def test_features_are_torchvisions(backbone, size, expected):
    features, _ = run(backbone, size, np.float32, train=False)
    for stride, ours in enumerate(features, 1):
        assert_same(ours, expected[f"{backbone}/{size}/evaluation/stride{2**stride}"], 1e-5)


@pytest.mark.parametrize(("backbone", "size"), marked(EVALUATED, EVALUATED[2:]))
def test_training_features_and_statistics_are_torchvisions(backbone, size, expected):
    # In float64, as test_models_torch.py says why.
    with jax.enable_x64(True):
        features, variables = run(backbone, size, np.float64, train=True)
    for stride, ours in enumerate(features, 1):
        assert_same(ours, expected[f"{backbone}/{size}/training/stride{2**stride}"], 1e-10)
    moved = models.pretrained.export(backbone, variables)
    assert_same(goldens.statistics(moved), expected[f"{backbone}/{size}/training/statistics"], 1e-6)
    before = goldens.statistics(goldens.state_dict(torch_shapes(backbone)))
    assert np.mean(np.abs(goldens.statistics(moved) - before)) > 0.01
