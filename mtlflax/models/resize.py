"""Bilinear resizing of maps."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from mtlflax.compiler import barrier


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resizing with half-pixel centers: [B, H, W, C] -> [B, *size, C].

    PyTorch's `interpolate(mode="bilinear", align_corners=False)`. Enlarging by a whole factor (what a decoder does
    unless sizes are odd) uses shifts and weighted sums, 2 to 3 times as fast on a CPU as `jax.image.resize`.
    """
    for axis, target in ((1, size[0]), (2, size[1])):
        length = x.shape[axis]
        if target == length:
            continue
        if target % length == 0:
            x = _enlarge(x, axis, target // length)
        else:
            shape = (*x.shape[:axis], target, *x.shape[axis + 1 :])
            x = jax.image.resize(x, shape, "bilinear", antialias=False)
    return x


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _enlarge(x: jax.Array, axis: int, factor: int) -> jax.Array:
    """Enlarge one axis bilinearly by a whole factor; outside, the edge value continues.

    The derived backward pass pads each gradient with zeros. The one written here shifts them, in less than half the
    time on a CPU.
    """
    return _shifted(x, axis, factor)


def _shifted(x: jax.Array, axis: int, factor: int) -> jax.Array:
    """`_enlarge` as a plain function, so that `jax.jvp` of a gradient works."""
    length = x.shape[axis]
    part = partial(lax.slice_in_dim, x, axis=axis)
    before = jnp.concatenate([part(0, 1), part(0, length - 1)], axis)
    after = jnp.concatenate([part(1, length), part(length - 1, length)], axis)
    phases = []
    for offset in _offsets(factor):
        neighbor = after if offset > 0 else before
        phases.append((1 - abs(offset)) * x + abs(offset) * neighbor)
    y = jnp.stack(phases, axis + 1)
    return y.reshape(*x.shape[:axis], factor * length, *x.shape[axis + 1 :])


def _enlarge_backward(axis: int, factor: int, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    (gradient,) = barrier(gradient)  # or the other axis' backward pass would be computed anew for each phase
    length = gradient.shape[axis] // factor
    shape = (*gradient.shape[:axis], length, factor, *gradient.shape[axis + 1 :])
    phases = [lax.index_in_dim(gradient.reshape(shape), i, axis + 1, keepdims=False) for i in range(factor)]
    # What the new pixels of each old pixel give to it, to the pixel before it, and to the one behind it.
    own, before, after = (jnp.zeros_like(phases[0]) for _ in range(3))
    for offset, phase in zip(_offsets(factor), phases, strict=True):
        own += (1 - abs(offset)) * phase
        if offset > 0:
            after += offset * phase
        else:
            before -= offset * phase
    part = partial(lax.slice_in_dim, axis=axis)
    from_next = jnp.concatenate([part(before, 1, length), part(after, length - 1, length)], axis)
    from_previous = jnp.concatenate([part(before, 0, 1), part(after, 0, length - 1)], axis)
    return (own + from_next + from_previous,)


_enlarge.defvjp(lambda x, axis, factor: (_shifted(x, axis, factor), None), _enlarge_backward)


def _offsets(factor: int) -> list[float]:
    """Where the new pixels of an old pixel lie, relative to its center, in old pixels."""
    return [(i + 0.5) / factor - 0.5 for i in range(factor)]
