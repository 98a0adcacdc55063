"""SegNet-MTAN: its pooling against PyTorch's, and its parts against the authors' counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers.topologies import pictures

from mtlflax import models
from mtlflax.models.layers import xavier
from mtlflax.models.segnet_mtan import pool, unpool

HEADS = {"segmentation": 7, "depth": 1}


def test_pooling_and_its_inverse():
    """Each value returns to where the first of its maxima was."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (2, 5, 7, 3)).astype(np.float32)  # ties, and odd sizes
    pooled, place = pool(jnp.asarray(x))
    assert pooled.shape == (2, 3, 4, 3)
    back = np.asarray(unpool(pooled, place, (5, 7)))
    expected = np.zeros_like(x)
    for b, h, w, c in np.ndindex(2, 3, 4, 3):
        window = x[b, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2, c]
        assert pooled[b, h, w, c] == window.max()
        row, column = np.unravel_index(np.argmax(window), window.shape)  # the first, row by row
        expected[b, 2 * h + row, 2 * w + column, c] = window.max()
    np.testing.assert_array_equal(back, expected)


def test_the_gradient_of_pooling_goes_to_the_maximum_alone():
    """To the first of equal ones; nothing is divided, so that it is finite however the maximum is rounded."""
    x = jnp.array([[1.0, 3.0, 2.0, 2.0], [3.0, 0.0, 1.0, 2.0]]).reshape(1, 2, 4, 1)
    gradient = jax.grad(lambda x: jnp.sum(pool(x)[0] * jnp.array([5.0, 7.0]).reshape(1, 1, 2, 1)))(x)
    np.testing.assert_array_equal(gradient[0, ..., 0], [[0, 5, 7, 0], [0, 0, 0, 0]])
    assert "div" not in str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(pool(x)[0])))(x))


def test_pooling_is_pytorchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((2, 8, 12, 3)).astype(np.float32)
    pooled, place = pool(jnp.asarray(x))
    theirs, indices = torch.nn.functional.max_pool2d(torch.tensor(x.transpose(0, 3, 1, 2)), 2, return_indices=True)
    np.testing.assert_array_equal(pooled, theirs.numpy().transpose(0, 2, 3, 1))
    back = torch.nn.functional.max_unpool2d(theirs, indices, 2).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(unpool(pooled, place, (8, 12)), back)


def test_its_parameters_are_the_authors():
    """Of the authors' layers for two tasks, counted by hand, but for the biases that BatchNorm takes away."""
    model = models.get("segnet_mtan", backbone="resnet18", heads=HEADS)
    shapes = jax.eval_shape(model.init, jax.random.key(0), pictures(32, 64))["params"]
    f = (64, 128, 256, 512, 512)

    def conv(k, a, b):
        return k * k * a * b + 2 * b  # with BatchNorm

    convolutions = (1, 1, 2, 2, 2)
    shared = sum(conv(3, a, b) for a, b in zip((3, *f), f, strict=False))
    shared += sum(n * conv(3, b, b) for n, b in zip(convolutions, f, strict=True))
    narrow = [f[max(0, i - 1)] for i in range(5)]
    shared += sum(conv(3, a, b) for a, b in zip(f, narrow, strict=True))
    shared += sum(n * conv(3, b, b) for n, b in zip(convolutions, narrow, strict=True))
    shared += conv(3, 64, 128) + conv(3, 128, 256) + conv(3, 256, 512) + conv(3, 512, 512) + conv(3, 512, 512)
    shared += conv(3, 64, 64) + conv(3, 128, 64) + conv(3, 256, 128) + conv(3, 512, 256) + conv(3, 512, 512)
    task = conv(1, 64, 64) + sum(conv(1, 2 * c, c) for c in f[1:]) + sum(conv(1, c, c) for c in f)
    task += conv(1, 128, 64) + conv(1, 64, 64)  # of the decoder's last stage
    task += sum(conv(1, f[i] + f[i - 1], f[i - 1]) + conv(1, f[i - 1], f[i - 1]) for i in range(1, 5))
    head = 9 * 64 * 64 + 64
    heads = sum(head + 64 * c + c for c in HEADS.values())
    flat = {"/".join(path): int(np.prod(leaf.shape)) for path, leaf in flatten_dict(shapes).items()}
    assert sum(n for path, n in flat.items() if model.shared(path)) == shared
    assert sum(n for path, n in flat.items() if not path.startswith("decoder_") and not model.shared(path)) == 2 * task
    assert sum(n for path, n in flat.items() if path.startswith("decoder_")) == heads
    assert any(model.last_shared(path) for path in flat)


def test_its_kernels_are_drawn_as_pytorchs():
    kernel = np.asarray(xavier(jax.random.key(0), (3, 3, 64, 128)))
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * (64 + 128))), rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"widths": (8, 8)}, "give the channels of 5 stages"), ({"widths": (8, 8, 8, 8, 0)}, "widths is")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        models.get("segnet_mtan", backbone="resnet18", heads=HEADS, **options)
