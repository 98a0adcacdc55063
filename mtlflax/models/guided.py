"""The common part of networks whose tasks guide each other: initial predictions, an exchange, final predictions."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlflax.models.blocks import activate, head
from mtlflax.models.checks import check_choice, check_whole
from mtlflax.models.encoders import activated, encoder
from mtlflax.models.layers import ConvBlock, Layer
from mtlflax.models.network import Topology
from mtlflax.models.resize import resize

STRIDES = (4, 8, 16)


class Aggregation(Layer):
    """The encoder's maps, each narrowed by a 1×1 convolution and enlarged to the finest, then fused by another."""

    width: int  # channels of each and of the result
    activated: tuple[bool, ...]  # whether each map is normalized and rectified already

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...], train: bool) -> jax.Array:
        """Map features, the first and finest [B, H, W, C], to [B, H, W, width]."""
        block = partial(ConvBlock, self.width, **self.common)
        size, parts = (maps[0].shape[1], maps[0].shape[2]), []
        for i, x in enumerate(activate(maps, self.activated, train, **self.common)):
            parts.append(resize(block(name=f"narrow{i}")(x, train), size))
        return block(name="fuse")(jnp.concatenate(parts, axis=-1), train)


class Initial(Layer):
    """The initial prediction of a task: a 3×3 convolution with BatchNorm and ReLU, and a 1×1 convolution."""

    channels: int  # of the prediction
    width: int  # of the map before it

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Return the task's map [B, H, W, width] and logits float32 [B, H, W, channels] from shared features."""
        x = ConvBlock(self.width, 3, 1, **self.common, name="block")(x, train)
        return x, head(self.channels, self.dtype, gain=1.0, name="head")(x)  # variance 1: PAD-Net builds on these


class Reconstruction(Layer):
    """The final prediction of a task: twice, the map is doubled bilinearly, and a 3×3 convolution halves its channels.

    A 1×1 convolution is the head; its logits are enlarged.
    """

    channels: int  # of the head, e.g. the number of classes

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int], train: bool) -> jax.Array:
        """Map features [B, H, W, C] to logits float32 [B, *size, channels]."""
        for i in (1, 2):
            _, h, w, width = x.shape
            block = ConvBlock(max(width // 2, 1), 3, 1, **self.common, name=f"block{i}")
            x = block(resize(x, (2 * h, 2 * w)), train)
        return resize(head(self.channels, self.dtype, name="head")(x), size)


class GuidedNetwork(Topology):
    """A shared encoder, an initial prediction per task, an exchange between the tasks, and a final prediction per task.

    `stride`, 4, 8 or 16, is that of the initial predictions and of the exchange; `width` the channels of the maps.
    """

    stride: int = 8
    width: int = 256

    fewest: ClassVar[int] = 2

    @nn.nowrap
    def _check(self) -> None:
        check_choice("stride", self.stride, STRIDES)
        check_whole({"width": self.width})

    def setup(self) -> None:
        decoder = self.rematted(Reconstruction, 2, 3)
        self.encoder = encoder(self.backbone, remat=self.remat, **self.common)
        self.aggregation = Aggregation(self.width, self._coarse(activated(self.encoder)), **self.common)
        for task, channels in self.heads.items():
            setattr(self, f"initial_{task}", Initial(channels, self.width, **self.common))
            setattr(self, f"decoder_{task}", decoder(channels, **self.common))

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Map images to logits as any network, in training to `{task}/aux/initial` of the same shapes too."""
        size = (images.shape[1], images.shape[2])
        x = self.aggregation(self._coarse(self.encoder(images, train)), train)
        initial = {task: getattr(self, f"initial_{task}")(x, train) for task in self.heads}
        guided = self.guide(initial, train)
        outputs = {task: getattr(self, f"decoder_{task}")(y, size, train) for task, y in guided.items()}
        if train:
            outputs |= {f"{task}/aux/initial": resize(logits, size) for task, (_, logits) in initial.items()}
        return outputs

    def guide(self, initial: Mapping[str, tuple[jax.Array, jax.Array]], train: bool) -> dict[str, jax.Array]:
        """Exchange: each task's map and initial logits to the map [B, H, W, width] of its final prediction."""
        raise NotImplementedError

    @nn.nowrap
    def _coarse(self, of_maps: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return, of five items for the maps of strides 2 to 32, those of `stride` and coarser."""
        return of_maps[1 + STRIDES.index(self.stride) :]
