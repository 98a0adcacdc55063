"""What decoders begin and end with: the activation of raw maps, and the head."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.layers import BatchNorm, Conv, scaled_normal


def head(channels: int, dtype: DTypeLike, *, kernel_size: int = 1, gain: float = 1e-3, name: str | None = None) -> Conv:
    """The convolution that ends a decoder, with a bias, in float32 or wider.

    By default its logits are nearly zero at first, so that the losses start at those of a guess, whatever the task.

    Args:
        channels: e.g. the number of classes.
        dtype: of the maps that it is given.
        kernel_size: odd; the map keeps its size.
        gain: of the kernel's variance at initialization, see `scaled_normal`.
        name: of the module, where it is not assigned to an attribute.
    """
    return Conv(
        channels,
        kernel_size,
        padding=kernel_size // 2,
        use_bias=True,
        dtype=jnp.promote_types(dtype, jnp.float32),
        kernel_init=scaled_normal(gain, "in"),
        name=name,
    )


def activate(
    maps: Sequence[jax.Array],
    activated: Sequence[bool],
    train: bool,
    *,
    names: Sequence[str] = ("norm0", "norm1", "norm2", "norm3", "norm4"),
    axis_name: str | None,
    dtype: DTypeLike,
) -> list[jax.Array]:
    """Apply BatchNorm and ReLU to the maps that an encoder gives without. Call it inside a compact method.

    Args:
        maps: each [B, H, W, C].
        activated: whether each map is normalized and rectified already.
        train: whether BatchNorm uses and updates batch statistics.
        names: of the BatchNorm modules, one per map.
        axis_name: as in `BatchNorm`.
        dtype: of the results.
    """
    return [
        x if done else nn.relu(BatchNorm(axis_name=axis_name, dtype=dtype, name=name)(x, train))
        for x, done, name in zip(maps, activated, names[: len(maps)], strict=True)
    ]
