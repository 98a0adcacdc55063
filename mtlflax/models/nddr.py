"""NDDR-CNN: neural discriminative dimensionality reduction (Gao et al. 2019, arXiv:1801.08297)."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.layers import ConvBlock, Initializer
from mtlflax.models.soft_sharing import SoftSharing, check_own, shrink


def diagonal(index: int, own: float) -> Initializer:
    """Initialises kernels [1, 1, K C, C]: of K maps that lie behind each other, `own` times the one of that index.

    The other maps have the rest in equal parts, each channel going to its own place.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        channels = shape[3]
        tasks = shape[2] // channels
        shares = jnp.full(tasks, (1 - own) / (tasks - 1), dtype).at[index].set(own)
        return jnp.kron(shares[:, None], jnp.eye(channels, dtype=dtype)).reshape(shape)

    return init


class NDDR(nn.Module):
    """One task's NDDR layer: all tasks' maps side by side, a 1×1 convolution, BatchNorm, ReLU.

    Attributes:
        index: of the task.
        own: the share of its own map at first.
    """

    index: int
    own: float
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """All tasks' maps, each [B, H, W, C], to the fused one."""
        fuse = ConvBlock(
            maps[0].shape[-1],
            axis_name=self.axis_name,
            dtype=self.dtype,
            kernel_init=diagonal(self.index, self.own),
            name="fuse",
        )
        return fuse(jnp.concatenate(maps, axis=-1), train)


class Shortcut(nn.Module):
    """One task's maps behind all its NDDR layers, side by side on the last one's grid, and a 1×1 convolution."""

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Maps, the last [B, H, W, C], to one of its shape."""
        *earlier, last = maps
        _, h, w, channels = last.shape
        x = jnp.concatenate([*(shrink(y, (h, w)) for y in earlier), last], axis=-1)
        return ConvBlock(channels, axis_name=self.axis_name, dtype=self.dtype, name="fuse")(x, train)


class NDDRCNN(SoftSharing):
    """A column a task, behind each stage an NDDR layer for each task.

    Here the layers stand behind the encoders' four stages, in the paper behind five poolings. With a ReLU behind
    BatchNorm, as in the authors' code, what the next stage and the decoder see is rectified, DenseNet's maps too. To
    the paper weight decay is a part of the method; here it is off, as in all configs (`config.optimizer.weight_decay`).

    Attributes:
        own: the share of a task's own map at first, above 0, at most 1. The paper's 0.9 and 0.1
            are for two tasks; where there are more, the others have the rest in equal parts.
        shortcut: NDDR-CNN-Shortcut: the maps of all stages, shrunk to the last one's grid, take the place of the
            decoder's coarsest map, fused by a 1×1 convolution with BatchNorm and ReLU. Off by default: a decoder with
            skip connections sees them anyway.
    """

    own: float = 0.9
    shortcut: bool = False

    rectified: ClassVar[bool] = True

    @nn.nowrap
    def check(self) -> None:
        """Raises ValueError, naming the attribute, for a network that there cannot be."""
        check_own(self.own)
        super().check()

    def setup(self) -> None:
        """Builds the columns, the NDDR layers and, if asked for, the shortcuts."""
        super().setup()
        if self.shortcut:
            for task in self.heads:
                setattr(self, f"shortcut_{task}", Shortcut(self.axis_name, self.dtype))

    @nn.nowrap
    def unit(self, index: int) -> nn.Module:
        """One task's NDDR layer."""
        return NDDR(index, self.own, self.axis_name, self.dtype)

    def finish(self, task: str, maps: Sequence[jax.Array], train: bool) -> Sequence[jax.Array]:
        """The maps, and with the shortcut all stages' in the place of the last."""
        return [*maps[:-1], getattr(self, f"shortcut_{task}")(maps[1:], train)] if self.shortcut else maps
