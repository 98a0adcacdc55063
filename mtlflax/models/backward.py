"""Operations whose backward pass is written here, since it takes fewer passes over memory than the derived one.

The results are those of the plain formulas, up to rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mtlflax.compiler import barrier

Function = Callable[[jax.Array, jax.Array], jax.Array]
Prepare = Callable[[Any, Any], jax.Array]

_PIXELS = (0, 1, 2)  # the axes of [B, H, W, C] that are summed over


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def isolated(function: Function, prepare: Prepare, x: Any, statistics: Any, kernel: jax.Array) -> jax.Array:
    """Return function(prepare(x, statistics), kernel), which XLA computes apart while gradients are taken on a CPU.

    It computes nothing before or after it in the same operation. And what is prepared is not kept for the backward
    pass, but computed again. x and the statistics are arrays or trees of arrays. The gradient of the statistics must be
    0, as in `normalize`, and is not computed.

    Otherwise each operation that reads x would compute it anew, from the last map that is stored: through all residual
    blocks of a stage. XLA would begin the backward pass (transpose x, transform the kernel) as soon as it could, and
    keep the results until then. And it would copy each kernel, since the optimizer's update, which overwrites it, might
    come before the gradient of x. The barriers that prevent this have an effect in programs that are compiled with
    `compiler.options`.
    """
    return function(prepare(x, statistics), kernel)


def _isolated_forward(
    function: Function, prepare: Prepare, x: Any, statistics: Any, kernel: jax.Array
) -> tuple[jax.Array, Any]:
    x, statistics = barrier(x, statistics)
    # By jax.vjp: as they are computed while gradients are taken, and so that jax.jvp of the gradient works.
    prepared, _ = jax.vjp(lambda x: prepare(x, statistics), x)
    (prepared,) = barrier(prepared)
    y, _ = jax.vjp(function, prepared, kernel)
    return barrier(y)[0], (x, statistics, kernel)


def _isolated_backward(function: Function, prepare: Prepare, kept: Any, gradient: jax.Array) -> tuple[Any, ...]:
    x, statistics, kernel, gradient = barrier(*kept, gradient)
    prepared, pull = jax.vjp(lambda x: prepare(x, statistics), x)
    (prepared,) = barrier(prepared)
    of_prepared, of_kernel = jax.vjp(function, prepared, kernel)[1](gradient)
    of_x, of_kernel = barrier(*pull(of_prepared), of_kernel)
    return of_x, None, of_kernel


isolated.defvjp(_isolated_forward, _isolated_backward)


@jax.custom_vjp
def settled(x: jax.Array) -> jax.Array:
    """Return x. While gradients are taken on a CPU, the gradient of x is summed up once, and stored.

    Otherwise XLA would sum it up anew in each operation that needs it: behind a pool, for each pixel of a window.
    """
    return x


settled.defvjp(lambda x: (x, None), lambda _, gradient: barrier(gradient))


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply each pixel's channels with a matrix: [B, H, W, C] and [C, K] -> [B, H, W, K].

    The derived gradient of the kernel multiplies the transposed gradient with x, and transposes the result. The other
    order, here, takes less time on a CPU (tests/benchmarks/README.md).
    """
    return x @ kernel


def _pointwise_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return x @ kernel, (x, kernel)


def _pointwise_backward(kept: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    of_x = lax.dot_general(gradient, kernel, (((3,), (1,)), ((), ())))
    of_kernel = lax.dot_general(x, gradient, ((_PIXELS, _PIXELS), ((), ())))
    return of_x, of_kernel


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def moments(x: jax.Array, origin: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the biased variance of each channel over the whole batch: [C], float32 or wider.

    Args:
        x: [B, H, W, C], this device's share of the batch. Half precision is widened to float32 first.
        origin: float32 [C], about which moments are taken: near the mean, or the variance loses its digits.
        axis_name: the mapped axis over which the batch is spread; None: it is all here.
    """
    # One pass gives both moments.
    centered = _widen(x) - origin[None, None, None]
    shift, square = mean_over(jnp.stack([centered.mean(_PIXELS), jnp.square(centered).mean(_PIXELS)]), axis_name)
    return origin + shift, jnp.maximum(square - jnp.square(shift), 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
    axis_name: str | None,
) -> jax.Array:
    """Normalize a batch by its own statistics: (x - mean) / sqrt(var + epsilon) · scale + bias.

    The mean and the variance must be those of x: its gradient contains what x does to the result through them, and
    theirs is 0.

    Args:
        x: [B, H, W, C], this device's share of the batch. Half precision is widened to float32 first.
        scale: float32 [C].
        bias: float32 [C].
        mean: float32 [C], from `moments`.
        var: float32 [C], from `moments`.
        epsilon: added to the variance.
        axis_name: the mapped axis over which the batch is spread; None: it is all here.

    Returns:
        [B, H, W, C], float32 or wider.
    """
    return _normalize_forward(x, scale, bias, mean, var, epsilon, axis_name)[0]


def _normalize_forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
    axis_name: str | None,
) -> tuple[jax.Array, Any]:
    inverse = lax.rsqrt(var + epsilon)
    y = (_widen(x) - mean[None, None, None]) * (scale * inverse)[None, None, None] + bias[None, None, None]
    return y, (x, scale, mean, inverse)


def _normalize_backward(
    epsilon: float, axis_name: str | None, kept: Any, gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    """Ioffe and Szegedy 2015, section 3, with the sums over the pixels of the whole batch."""
    x, scale, mean, inverse = kept
    wide = _widen(x)
    count = x.shape[0] * x.shape[1] * x.shape[2]
    of_bias = gradient.sum(_PIXELS)
    # Σ g (x - mean), without an array x - mean.
    of_scale = ((gradient * wide).sum(_PIXELS) - mean * of_bias) * inverse
    of_mean, of_deviation = mean_over(jnp.stack([of_bias, of_scale]) / count, axis_name)
    slope = inverse * of_deviation
    offset = of_mean - mean * slope
    of_x = (gradient - offset[None, None, None] - wide * slope[None, None, None]) * (scale * inverse)[None, None, None]
    return of_x.astype(x.dtype), of_scale, of_bias, None, None


normalize.defvjp(_normalize_forward, _normalize_backward)


def _widen(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def mean_over(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Average over a mapped axis; where it has one device, or is None, this is x, and no operation."""
    return x if axis_name is None or lax.axis_size(axis_name) == 1 else lax.pmean(x, axis_name)
