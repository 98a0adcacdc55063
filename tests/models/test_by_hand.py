"""Operations with backward passes of their own, against what JAX derives from the plain formulas, in float64 too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from mtlflax import compiler
from mtlflax.models import backward, convolution, densenet, layers, winograd
from mtlflax.models.layers import BatchNorm, Conv
from mtlflax.models.resize import resize
from mtlflax.models.resnet import Block


def drawn(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def plain(x, kernel, stride=1, padding=1, dilation=1):
    pads, axes = ((padding, padding),) * 2, ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride,) * 2, pads, rhs_dilation=(dilation,) * 2, dimension_numbers=axes
    )


def close(ours, expected, tolerance):
    assert ours.shape == expected.shape
    assert np.linalg.norm(ours - expected) < tolerance * np.linalg.norm(expected)


def pulled_back(function, given, cotangent):
    result, pull = jax.vjp(function, *given)
    return result, *pull(cotangent)


def in_float64(function, given, cotangent):
    with jax.enable_x64(True):
        return jax.device_get(pulled_back(function, *jax.tree.map(np.float64, (given, cotangent))))


@pytest.mark.parametrize("size", [(8, 8), (9, 6), (7, 13), (1, 2), (4, 4)])
def test_tiles_are_the_convolution(size):
    x, kernel, gradient = drawn((2, *size, 5), (3, 3, 5, 4), (2, *size, 4))
    y, of_x, of_kernel = in_float64(plain, (x, kernel), gradient)
    close(winograd.tiled(x, kernel), y, 3e-6)
    close(winograd.tiled(gradient, kernel[::-1, ::-1].swapaxes(2, 3)), of_x, 3e-6)
    close(winograd.tiled_kernel_gradient(x, gradient), of_kernel, 3e-6)


WIDE = (8, 32, 32, 32)  # as many channels, and more tiles than it takes


@pytest.mark.parametrize(("shape", "features"), [(WIDE, 64), ((8, 16, 32, 256), 64)])
def test_wide_convolutions_are_tiled_while_training_on_a_cpu(shape, features):
    x, kernel, gradient = drawn(shape, (3, 3, shape[3], features), (*shape[:3], features))
    kernel /= 20
    for ours, expected in zip(
        jax.jit(lambda *given: pulled_back(winograd.convolve, given[:2], given[2]))(x, kernel, gradient),
        in_float64(plain, (x, kernel), gradient),
        strict=True,
    ):
        close(ours, expected, 5e-6)


def convolutions(function, *given, platform="cpu"):
    lowered = jax.jit(function).trace(*given).lower(lowering_platforms=(platform,))
    return lowered.as_text().count("stablehlo.convolution")


LEAST = (4, 16, 16, 32)  # with just as many tiles as it takes


@pytest.mark.parametrize(
    ("shape", "features", "dtype", "platform", "tiled"),
    [
        (WIDE, 32, "float32", "cpu", True),
        (LEAST, 32, "float32", "cpu", True),
        (WIDE, 32, "float32", "cuda", False),
        (WIDE, 32, "float32", "tpu", False),
        (WIDE, 32, "bfloat16", "cpu", False),
        (WIDE, 31, "float32", "cpu", False),
        ((*WIDE[:3], 31), 32, "float32", "cpu", False),
        ((7, 8, 16, 32), 32, "float32", "cpu", False),
    ],
)
def test_where_convolutions_are_tiled(shape, features, dtype, platform, tiled):
    """Nowhere else, and nowhere without a gradient: what is exported or evaluated has the convolution itself."""
    layer = Conv(features, 3, 1, 1, dtype=dtype)
    x = jnp.zeros(shape, dtype)
    variables = layer.init(jax.random.key(0), x)

    def train(variables, x):
        return jax.grad(lambda *given: layer.apply(*given).astype(jnp.float32).sum(), (0, 1))(variables, x)

    # Both gradients; that of a sum does not need the result.
    assert convolutions(train, variables, x, platform=platform) == (0 if tiled else 2)
    assert convolutions(layer.apply, variables, x, platform=platform) == 1


@pytest.mark.parametrize(
    ("size", "k", "stride", "padding", "dilation"),
    [
        ((2, 4), 3, 1, 1, 1),
        ((1, 1), 3, 1, 1, 1),
        ((1, 8), 3, 1, 1, 1),
        ((4, 4), 3, 2, 1, 1),  # few pixels in the result alone
        ((3, 5), 3, 2, 1, 1),
        ((2, 4), 3, 1, 2, 2),
        ((2, 3), 3, 1, 6, 6),  # as DeepLab: only the middle of the kernel meets the map
        ((5, 5), 7, 2, 3, 1),
        ((4, 4), 3, 1, 0, 1),
        ((2, 2), 1, 1, 1, 1),
        ((3, 3), 3, 1, 1, 1),
    ],
)
def test_tiny_maps(size, k, stride, padding, dilation):
    """XLA's own convolution takes up to 50 times as long for fewer pixels than the kernel has."""
    given = stride, padding, dilation
    x, kernel = drawn((2, *size, 5), (k, k, 5, 4))
    (gradient,) = drawn(plain(x, kernel, *given).shape, seed=1)
    expected = in_float64(lambda x, kernel: plain(x, kernel, *given), (x, kernel), gradient)
    ours = pulled_back(lambda x, kernel: convolution.convolve(x, kernel, *given), (x, kernel), jnp.asarray(gradient))
    for our, true in zip(ours, expected, strict=True):
        close(our, true, 1e-6)
    few = min(x.shape[1] * x.shape[2], gradient.shape[1] * gradient.shape[2]) < k * k
    assert convolutions(lambda x, kernel: convolution.convolve(x, kernel, *given), x, kernel) == (0 if few else 1)


def test_pointwise():
    x, kernel, gradient = drawn((2, 3, 5, 7), (7, 4), (2, 3, 5, 4))
    ours = pulled_back(backward.pointwise, (jnp.asarray(x), jnp.asarray(kernel)), gradient)
    for our, expected in zip(ours, in_float64(lambda x, kernel: x @ kernel, (x, kernel), gradient), strict=True):
        close(our, expected, 1e-6)


class Dense(nn.Module):
    """The last map of a dense block, normalized by running statistics."""

    depth: int

    @nn.compact
    def __call__(self, x):
        return densenet.DenseBlock(self.depth)(x, False)[-1]


@pytest.mark.parametrize(
    ("platform", "train", "kept"),
    [("cpu", True, True), ("cpu", False, False), ("cuda", True, False), ("tpu", True, False)],
)
@pytest.mark.parametrize("layer", [Conv(4), Dense(2)])
def test_where_maps_are_stored(layer, platform, train, kept):
    """Accelerators, and what is exported or evaluated, have no barriers."""
    x = jnp.zeros((2, 3, 5, 7))
    variables = layer.init(jax.random.key(0), x)
    function = jax.grad(lambda *given: layer.apply(*given).sum()) if train else layer.apply
    lowered = jax.jit(function).trace(variables, x).lower(lowering_platforms=(platform,))
    assert ("optimization_barrier" in lowered.as_text()) == kept


def temporary(function, *given):
    jitted = jax.jit(function, compiler_options=compiler.options())
    return jitted.lower(*given).compile().memory_analysis().temp_size_in_bytes


def test_normalized_maps_are_not_kept():
    """They are computed again for the backward pass of the convolution behind them."""
    x = jnp.zeros((8, 32, 64, 32))

    class Chain(nn.Module):
        before: bool

        @nn.compact
        def __call__(self, x):
            for i in range(8):
                norm = BatchNorm(name=f"norm{i}").prepare(x, True)
                conv = Conv(32, name=f"conv{i}")
                x = conv(nn.relu(norm(x))) if self.before else conv(x, norm)
            return x

    def gradients(before):
        chain = Chain(before)
        variables = chain.init(jax.random.key(0), x)

        def loss(params):
            return jnp.square(chain.apply(variables | {"params": params}, x, mutable=["batch_stats"])[0]).sum()

        return jax.jit(jax.grad(loss)), variables["params"]

    (kept, params), (again, _) = gradients(True), gradients(False)
    drawn_params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    for our, expected in zip(jax.tree.leaves(again(drawn_params)), jax.tree.leaves(kept(drawn_params)), strict=True):
        np.testing.assert_allclose(our, expected, rtol=1e-4, atol=1e-4)
    assert temporary(again, params) < temporary(kept, params) - 5 * x.nbytes


def test_a_settled_gradient_is_summed_up_once():
    """And not anew for each pixel of a pool, in the operation that hands out the pool's gradient."""
    x, *factors = drawn((2, 16, 32, 8), *[(2, 8, 16, 8)] * 9)

    def terms(settled):
        def loss(x, factors):
            y = settled(layers.average_pool(x))
            return sum((y * factor).sum() for factor in factors)

        jitted = jax.jit(jax.grad(loss), compiler_options=compiler.options())
        lines = jitted.lower(x, factors).compile().as_text().splitlines()
        return next(line for line in reversed(lines) if "ROOT" in line).count("%factors")

    assert terms(backward.settled) == 0
    assert terms(lambda x: x) == 9


@pytest.mark.parametrize("train", [True, False])
def test_channels_that_were_summed_before_are_not_summed_again(train):
    """The normalization of all channels is the same, and so are the running statistics."""
    x = jnp.asarray(drawn((4, 3, 5, 7))[0]) + 2
    old, new = BatchNorm(), BatchNorm()
    first = old.init(jax.random.key(0), x[..., :4], True)
    variables = new.init(jax.random.key(1), x, True)
    known, _ = old.apply(first, x[..., :4], train, method="prepare", mutable=["batch_stats"])
    ours = new.apply(variables, x[..., 4:], train, known, method="prepare", mutable=["batch_stats"])
    expected = new.apply(variables, x, train, method="prepare", mutable=["batch_stats"])
    for our, true in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(our, true, rtol=1e-6)


def test_residual_blocks_are_not_computed_again(monkeypatch):
    """Without what is stored, the backward pass of a block computes the maps of all blocks before it anew."""
    x = jnp.zeros((2, 8, 16, 64))

    class Chain(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(12):
                x = Block(16, 1, bottleneck=True, name=f"block{i}")(x, True)
            return x

    variables = Chain().init(jax.random.key(0), x)

    def loss(params):
        return Chain().apply(variables | {"params": params}, x, mutable=["batch_stats"])[0].sum()

    def compiled():
        step = jax.jit(jax.value_and_grad(loss), compiler_options=compiler.options())
        return step.lower(variables["params"]).compile().cost_analysis()["flops"]

    isolated = compiled()
    monkeypatch.setattr(
        layers, "isolated", lambda function, prepare, x, statistics, kernel: function(prepare(x, statistics), kernel)
    )
    assert isolated < 0.97 * compiled()


def test_nothing_is_prepared_early_or_copied(monkeypatch):
    """Kernels that the step overwrites are not copied, and what the backward pass needs of them is made there."""
    x = jnp.zeros((8, 16, 32, 128))

    class Chain(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(6):
                x = nn.relu(Conv(128, 3, 1, 1, name=f"conv{i}")(x))
            return x

    variables = Chain().init(jax.random.key(0), x)

    def temporary():
        def step(variables):
            gradients = jax.grad(lambda variables: Chain().apply(variables, x).sum())(variables)
            return jax.tree.map(jnp.subtract, variables, gradients)

        jitted = jax.jit(step, donate_argnums=0, compiler_options=compiler.options())
        return jitted.lower(variables).compile().memory_analysis().temp_size_in_bytes

    isolated = temporary()
    monkeypatch.setattr(
        layers, "isolated", lambda function, prepare, x, statistics, kernel: function(prepare(x, statistics), kernel)
    )
    kernels = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert isolated < temporary() - 2 * kernels


def plainly_normalized(x, scale, bias):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    wide = (None, None, None)
    return (x - mean[wide]) / jnp.sqrt(var[wide] + 1e-5) * scale[wide] + bias[wide]


@pytest.mark.parametrize("offset", [0.0, 30.0])  # of the mean, in deviations
@pytest.mark.parametrize("devices", [None, 1, 4])
def test_normalize(offset, devices):
    x, scale, bias, gradient = drawn((8, 3, 5, 6), (6,), (6,), (8, 3, 5, 6))
    x += offset
    origin = np.full(6, offset, np.float32) + 1

    def here(x, scale, bias, gradient, axis_name=None):
        mean, var = backward.moments(x, origin, axis_name)
        normalized = lambda *given: backward.normalize(*given, mean, var, 1e-5, axis_name)  # noqa: E731
        return pulled_back(normalized, (x, scale, bias), gradient)

    if devices is None:
        y, of_x, of_scale, of_bias = jax.jit(here)(x, scale, bias, gradient)
    else:
        spread = [a.reshape(devices, -1, *a.shape[1:]) for a in (x, gradient)]
        mapped = jax.pmap(
            lambda x, gradient: here(x, scale, bias, gradient, "data"), "data", devices=jax.devices()[:devices]
        )
        y, of_x, of_scale, of_bias = mapped(*spread)
        y, of_x = (a.reshape(x.shape) for a in (y, of_x))
        of_scale, of_bias = of_scale.sum(0), of_bias.sum(0)  # each device has its own part
    expected = in_float64(plainly_normalized, (x, scale, bias), gradient)
    for our, true in zip((y, of_x, of_scale, of_bias), expected, strict=True):
        close(our, true, 1e-6 * (1 + offset))


@pytest.mark.parametrize("convolved", [False, True])
def test_gradients_of_gradients(convolved):
    """The statistics of a batch depend on it, which the second derivative must know too."""
    with jax.enable_x64(True):
        x, kernel = (jnp.float64(a) for a in drawn((2, 3, 4, 5), (5, 4)))
        slopes = jnp.cos(jnp.arange(5.0 if not convolved else 4.0))[None, None, None]
        norm, conv = BatchNorm(dtype=jnp.float64), Conv(4, dtype=jnp.float64)
        variables = norm.init(jax.random.key(0), x, True)

        def ours(x):
            prepared, _ = norm.apply(variables, x, True, method="prepare", mutable=["batch_stats"])
            return conv.apply({"params": {"kernel": kernel[None, None]}}, x, prepared) if convolved else prepared(x)

        def plainly(x):
            y = plainly_normalized(x, jnp.ones(5), jnp.zeros(5))
            return jax.nn.relu(y) @ kernel if convolved else y

        def second(function):
            return jax.grad(lambda x: jnp.square(jax.grad(lambda x: (jnp.sin(function(x)) * slopes).sum())(x)).sum())(x)

        close(second(ours), second(plainly), 1e-12)


@pytest.mark.parametrize("train", [True, False])
def test_curvature_in_forward_mode(train):
    """`jax.jvp` of a gradient, the usual product of a Hessian with a vector, is the gradient of an inner product."""
    x, direction = (jnp.asarray(a) for a in drawn((4, 16, 16, 32), (4, 16, 16, 32)))  # by tiles

    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = Conv(32, 3, 1, 1)(x, BatchNorm(name="norm").prepare(x, train))
            return Conv(4)(resize(layers.max_pool(x), (16, 16)))

    variables = Layers().init(jax.random.key(0), x)

    def gradient(x):
        return jax.grad(lambda x: jnp.sin(Layers().apply(variables, x, mutable=["batch_stats"])[0]).sum())(x)

    curvature = jax.jvp(gradient, (x,), (direction,))[1]
    close(curvature, jax.grad(lambda x: jnp.vdot(gradient(x), direction))(x), 1e-5)
    assert np.linalg.norm(curvature) > 1e-3


def test_running_statistics_have_a_gradient():
    """In evaluation, where nothing else depends on them."""
    x = jnp.asarray(drawn((2, 3, 5, 7))[0])
    norm, conv = BatchNorm(), Conv(4)
    variables, kernel = norm.init(jax.random.key(0), x, True), conv.init(jax.random.key(1), x)

    def behind(statistics):
        prepared = norm.apply({**variables, "batch_stats": statistics}, x, False, method="prepare")
        return jnp.sin(conv.apply(kernel, x, prepared)).sum()

    def before(statistics):
        normalized = norm.apply({**variables, "batch_stats": statistics}, x, False)
        return jnp.sin(conv.apply(kernel, nn.relu(normalized))).sum()

    ours, expected = (jax.grad(function)(variables["batch_stats"]) for function in (behind, before))
    for name in ("mean", "var"):
        close(ours[name], expected[name], 1e-5)
        assert np.linalg.norm(expected[name]) > 0.1


def test_gradients_of_several_tasks_at_once():
    """`jax.vmap` over cotangents, as gradient balancings pull back."""
    x, kernel, scale, bias = drawn(WIDE, (3, 3, 32, 32), (32,), (32,))
    cotangents = np.random.default_rng(1).normal(size=(2, *WIDE)).astype(np.float32)

    def function(x, kernel, scale, bias):
        y = backward.pointwise(winograd.convolve(x, kernel), kernel[1, 1])
        return backward.normalize(y, scale, bias, *backward.moments(y, jnp.zeros(32), None), 1e-5, None)

    @jax.jit
    def both(x, kernel, scale, bias):
        pull = jax.vjp(function, x, kernel, scale, bias)[1]
        return jax.vmap(pull)(cotangents), [pull(c) for c in cotangents]

    at_once, one_by_one = both(x, kernel, scale, bias)
    for i, each in enumerate(one_by_one):
        for our, expected in zip(at_once, each, strict=True):
            close(our[i], expected, 1e-5)
