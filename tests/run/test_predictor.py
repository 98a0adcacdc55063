"""How batches of pictures are predicted on a CPU, and elsewhere."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mtlflax import compiler
from mtlflax.models.layers import BatchNorm, Conv, ConvBlock
from mtlflax.run import predictor


class Net(nn.Module):
    """A convolution that Winograd's algorithm is not for, and two that it is."""

    @nn.compact
    def __call__(self, x, train):
        x = ConvBlock(32, 3, 1, name="first")(x, train)
        x = ConvBlock(32, 3, 1, name="second")(x, train)
        x = Conv(32, 3, 1, 1, name="third")(x, BatchNorm(name="norm").prepare(x, train))
        return {"depth": Conv(1, name="head")(x)}


@pytest.fixture(scope="module")
def run():
    images = jnp.zeros((1, 16, 32, 3))
    variables = Net().init(jax.random.key(0), images, False)
    variables = jax.tree.map(lambda x: x + 0.02 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), variables)
    network = SimpleNamespace(model=Net(), tasks=(SimpleNamespace(name="depth", activation=nn.sigmoid),))
    return predictor.Run(network, 0, variables)


def images(count):
    return np.random.default_rng(count).integers(0, 256, (count, 32, 64, 3), np.uint8)


def operations(function, given, platform="cpu"):
    text = function.trace(given).lower(lowering_platforms=(platform,)).as_text()
    return {name: text.count(f"stablehlo.{name}") for name in ("convolution", "optimization_barrier")}


def test_a_batch_is_predicted_as_in_training(run):
    """Its wide convolutions are computed by tiles, and the result is the network's."""
    predict, plain = predictor.make_predict(run), jax.jit(predictor.network_function(run))
    found = operations(predict, images(2))
    assert found["convolution"] == operations(plain, images(2))["convolution"] - 2 == 1
    assert found["optimization_barrier"]
    ours, expected = predict(images(2))["depth"], plain(images(2))["depth"]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_pictures_alone_are_predicted_plainly(run, count):
    """And so are all on a GPU."""
    predict, plain = predictor.make_predict(run), jax.jit(predictor.network_function(run))
    for platform in ("cpu", "cuda") if count == 1 else ("cuda",):
        found = operations(predict, images(count), platform)
        assert found == operations(plain, images(count), platform) == {"convolution": 3, "optimization_barrier": 0}


def test_batches_are_predicted_plainly_where_xla_takes_no_options(run, monkeypatch):
    """On other platforms than CPUs, and with versions of XLA that do not know them."""
    monkeypatch.setattr(compiler, "options", dict)
    found = operations(predictor.make_predict(run), images(2))
    assert found == {"convolution": 3, "optimization_barrier": 0}
