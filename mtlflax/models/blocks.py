"""What several decoders are made of: a convolution block, a prediction head, and the activation of raw maps."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.layers import BatchNorm, Conv, Initializer, scaled_normal


class ConvBlock(nn.Module):
    """A convolution, BatchNorm and ReLU: [B, H, W, C] -> [B, H', W', features], as `Conv`.

    Attributes:
        axis_name: as in `BatchNorm`.
        dtype: of the computation and of the result.
    """

    features: int
    kernel_size: int = 1
    padding: int = 0
    dilation: int = 1
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = scaled_normal(2.0, "out")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the activated map."""
        k, p, d = self.kernel_size, self.padding, self.dilation
        conv = Conv(self.features, k, 1, p, d, dtype=self.dtype, kernel_init=self.kernel_init, name="conv")
        return nn.relu(BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="bn")(conv(x), train))


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
