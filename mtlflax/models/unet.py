"""The U-Net of the paper: one encoder for all tasks, and for each a decoder with attention."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jax.typing import DTypeLike

from mtlflax.models.attention import KINDS, attention
from mtlflax.models.encoders import encoder
from mtlflax.models.layers import BatchNorm, Conv, resize, scaled_normal

HEAD_STRIDES = (1, 2, 4)
LAST_STAGES = ("encoder/layer4_", "encoder/denseblock4/")  # of ResNet and of DenseNet


class Decoder(nn.Module):
    """From five maps of strides 2 to 32 to one task's logits (after Ronneberger et al. 2015).

    A stage narrows the map with a 1×1 convolution and doubles its size bilinearly (together the
    paper's "up-convolution"), puts the encoder's map of that stride beside it, as the attention
    lets it through, and runs two 3×3 convolutions, each with BatchNorm and ReLU. The last stage,
    to stride 1, has no skip. The head is a 1×1 convolution.

    Attributes:
        channels: of the head, e.g. the number of classes.
        widths: channels of the stages to strides 16, 8, 4, 2 and 1.
        head_stride: 1, 2 or 4: where the head is, and the last stage. Its logits are enlarged.
        attention: a key of `attention.KINDS`.
        activated: for each map, whether it is normalised and rectified; else that is done here.
    """

    channels: int
    widths: tuple[int, ...]
    head_stride: int
    attention: str
    activated: tuple[bool, ...]
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: tuple[jax.Array, ...], size: tuple[int, int], train: bool) -> jax.Array:
        """Returns logits float32 [B, *size, channels]."""
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        maps = {2**i: x for i, x in enumerate(features, start=1)}
        for stride, activated in zip(maps, self.activated, strict=True):
            if not activated and stride >= self.head_stride:
                maps[stride] = nn.relu(norm(name=f"norm_stride{stride}")(maps[stride], train))

        x = maps[32]
        for width, stride in zip(self.widths, (16, 8, 4, 2, 1), strict=True):
            if stride < self.head_stride:
                break
            name = f"stride{stride}"
            # A 1×1 convolution commutes with the enlargement, and costs a quarter before it.
            up = Conv(width, dtype=self.dtype, name=f"{name}_up")(x)
            if stride == 1:
                x = resize(up, size)
            else:
                attend = attention(self.attention, dtype=self.dtype, name=f"{name}_attention")
                skip = attend(maps[stride], x)
                x = jnp.concatenate([resize(up, (skip.shape[1], skip.shape[2])), skip], axis=-1)
            for i in (1, 2):
                conv = Conv(width, 3, 1, 1, dtype=self.dtype, name=f"{name}_conv{i}")
                x = nn.relu(norm(name=f"{name}_bn{i}")(conv(x), train))

        # Nearly zero at first, so that the losses start at those of a guess, whatever the task.
        init, dtype = scaled_normal(1e-3, "in"), jnp.promote_types(self.dtype, jnp.float32)
        logits = Conv(self.channels, use_bias=True, dtype=dtype, kernel_init=init, name="head")(x)
        return resize(logits, size)


class UNet(nn.Module):
    """A shared encoder and a `Decoder` for each task.

    Parameters are `encoder/...` (shared) and `decoder_<task>/...`. With one head it is the
    single-task network.

    Attributes:
        backbone: a name that `models.encoder` knows.
        heads: task → channels, in the order of the outputs.
        attention: on the skip connections, a key of `attention.KINDS`.
        decoder_channels: widths of the decoders' stages, to strides 16, 8, 4, 2 and 1.
        head_stride: 1, 2 or 4: where the heads are. No convolution of a decoder runs at a finer
            stride; the logits are enlarged bilinearly from there.
        remat: whether the backward pass computes what is in the encoder's blocks and the decoders
            anew: less memory, more time, the same results.
        axis_name: mapped axis for synchronised batch statistics.
        dtype: of the computation, e.g. "bfloat16"; parameters, batch statistics, heads and logits
            are float32.

    Raises:
        ValueError: an attribute's value makes no sense; the message names it.
    """

    backbone: str
    heads: Mapping[str, int]
    attention: str = "gate"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    head_stride: int = 1
    remat: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the attributes and makes them hashable, so that models can be static arguments."""
        if not self.heads:
            raise ValueError("heads is empty: give at least one task → channels")
        if self.attention not in KINDS:
            raise ValueError(f"unknown attention {self.attention!r}: choose one of {', '.join(KINDS)}")
        if self.head_stride not in HEAD_STRIDES:
            raise ValueError(f"head_stride is {self.head_stride}: choose one of {HEAD_STRIDES}")
        if len(self.decoder_channels) != 5 or not all(width >= 1 for width in self.decoder_channels):
            raise ValueError(
                f"decoder_channels is {self.decoder_channels}: give five numbers from 1 on, for strides 16, 8, 4, 2, 1"
            )
        self.heads = FrozenDict(self.heads)
        self.decoder_channels = tuple(self.decoder_channels)
        super().__post_init__()

    def setup(self) -> None:
        """Builds the encoder and the decoders."""
        self.encoder = encoder(self.backbone, remat=self.remat, axis_name=self.axis_name, dtype=self.dtype)
        decoder_class = nn.remat(Decoder, static_argnums=(2, 3)) if self.remat else Decoder
        for task, channels in self.heads.items():
            decoder = decoder_class(
                channels=channels,
                widths=self.decoder_channels,
                head_stride=self.head_stride,
                attention=self.attention,
                activated=self.encoder.activated,
                axis_name=self.axis_name,
                dtype=self.dtype,
            )
            setattr(self, f"decoder_{task}", decoder)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Images [B, H, W, 3], normalised, to logits: task → float32 [B, H, W, channels]."""
        features = self.encode(images, train)
        size = (images.shape[1], images.shape[2])
        return {task: self.decode(features, task, train, size=size) for task in self.heads}

    def encode(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """The shared part: images to the encoder's five maps."""
        return self.encoder(images, train)

    def decode(
        self,
        features: tuple[jax.Array, ...],
        task: str,
        train: bool = False,
        *,
        size: tuple[int, int] | None = None,
    ) -> jax.Array:
        """One task's part: the encoder's five maps to float32 [B, H, W, channels].

        Args:
            features: as `encode` gives them.
            task: a key of `heads`.
            train: whether BatchNorm takes and updates batch statistics.
            size: the images' (H, W). By default twice the first map's: right if even.
        """
        if size is None:
            size = (2 * features[0].shape[1], 2 * features[0].shape[2])
        return getattr(self, f"decoder_{task}")(features, size, train)

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Whether the parameter at that path ("encoder/conv1/kernel") serves all tasks."""
        return path.split("/", 1)[0] == "encoder"

    @nn.nowrap
    def last_shared(self, path: str) -> bool:
        """Whether it belongs to the last shared layers: the encoder's last stage, whose map has stride 32."""
        return path.startswith(LAST_STAGES)
