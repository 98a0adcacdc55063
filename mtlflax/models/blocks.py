"""What decoders begin and end with: the activation of raw maps, and the head."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.layers import BatchNorm, Conv, scaled_normal


def head(channels: int, dtype: DTypeLike, *, kernel_size: int = 1, gain: float = 1e-3, name: str | None = None) -> Conv:
    """The convolution that ends a decoder of maps of that dtype, with a bias, in float32 or wider.

    By default its logits are nearly zero at first, so that the losses start at those of a guess, whatever the task:
    `gain` is that of the kernel's variance, see `scaled_normal`. The kernel size is odd, and the map keeps its size.
    """
    wide, init = jnp.promote_types(dtype, jnp.float32), scaled_normal(gain, "in")
    return Conv(channels, kernel_size, 1, kernel_size // 2, use_bias=True, dtype=wide, kernel_init=init, name=name)


def activate(
    maps: Sequence[jax.Array],
    activated: Sequence[bool],
    train: bool,
    *,
    names: Sequence[str] = ("norm0", "norm1", "norm2", "norm3", "norm4"),
    **common: Any,
) -> list[jax.Array]:
    """Apply BatchNorm and ReLU to the maps that an encoder gives without. Call it inside a compact method.

    `activated` says which maps, each [B, H, W, C], are normalized and rectified already. `names` are those of the
    BatchNorm modules, one per map, and `common` their other attributes.
    """
    return [
        x if done else nn.relu(BatchNorm(**common, name=name)(x, train))
        for x, done, name in zip(maps, activated, names[: len(maps)], strict=True)
    ]
