"""NDDR-CNN: neural discriminative dimensionality reduction (Gao et al. 2019, arXiv:1801.08297)."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.checks import check_share
from mtlflax.models.layers import ConvBlock, Initializer, Layer
from mtlflax.models.soft_sharing import SoftSharing, shrink


def diagonal(index: int, own: float) -> Initializer:
    """Return an initializer of kernels [1, 1, K C, C] that average K concatenated maps, channel by channel.

    The map of that index has the share `own`; the others have equal parts of the rest.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        channels = shape[3]
        tasks = shape[2] // channels
        shares = jnp.full(tasks, (1 - own) / (tasks - 1), dtype).at[index].set(own)
        return jnp.kron(shares[:, None], jnp.eye(channels, dtype=dtype)).reshape(shape)

    return init


class NDDR(Layer):
    """The NDDR layer of one task: the maps of all tasks concatenated, a 1×1 convolution, BatchNorm, ReLU."""

    index: int  # of the task
    own: float  # the initial share of its own map

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Fuse the maps of all tasks, each [B, H, W, C], into one."""
        init = diagonal(self.index, self.own)
        fuse = ConvBlock(maps[0].shape[-1], kernel_init=init, **self.common, name="fuse")
        return fuse(jnp.concatenate(maps, axis=-1), train)


class Shortcut(Layer):
    """The maps behind all NDDR layers of one task, concatenated on the grid of the last, and a 1×1 convolution."""

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Fuse maps into one of the shape of the last, [B, H, W, C]."""
        *earlier, last = maps
        _, h, w, channels = last.shape
        x = jnp.concatenate([*(shrink(y, (h, w)) for y in earlier), last], axis=-1)
        return ConvBlock(channels, **self.common, name="fuse")(x, train)


class NDDRCNN(SoftSharing):
    """A column per task; behind each stage an NDDR layer per task.

    With a ReLU behind BatchNorm, as in the authors' code, stages and decoders see rectified maps, of a DenseNet too.

    Differences from the paper: the layers are behind the four stages of the encoders instead of five poolings; weight
    decay, which the paper counts as a part of the method, is off, as in all configs (`config.optimizer.weight_decay`).

    Attributes:
        own: the initial share of a task's own map, above 0 and at most 1. The others have equal parts of the rest.
        shortcut: NDDR-CNN-Shortcut: the maps of all stages, shrunk to the grid of the last and fused by a 1×1
            convolution with BatchNorm and ReLU, replace the decoder's coarsest map. Off by default: skip
            connections bring them anyway.
    """

    own: float = 0.9
    shortcut: bool = False

    rectified: ClassVar[bool] = True

    @nn.nowrap
    def _check(self) -> None:
        check_share("own", self.own)
        super()._check()

    def setup(self) -> None:
        super().setup()
        if self.shortcut:
            for task in self.heads:
                setattr(self, f"shortcut_{task}", Shortcut(**self.common))

    @nn.nowrap
    def unit(self, index: int) -> nn.Module:
        """Return the NDDR layer of one task."""
        return NDDR(index, self.own, **self.common)

    def finish(self, task: str, maps: Sequence[jax.Array], train: bool) -> Sequence[jax.Array]:
        """Return the maps; with the shortcut, the last one replaced by the fused maps of all stages."""
        return [*maps[:-1], getattr(self, f"shortcut_{task}")(maps[1:], train)] if self.shortcut else maps
