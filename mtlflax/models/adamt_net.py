"""AdaMT-Net (Jha et al. 2020, "AdaMT-Net: An Adaptive Weight Learning Based Multi-Task Learning Model")."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jax.typing import DTypeLike

from mtlflax.models.encoders import encoder
from mtlflax.models.layers import BatchNorm, Conv, ConvBlock, resize, scaled_normal
from mtlflax.models.unet import HEAD_STRIDES, LAST_STAGES


class SoftAttention(nn.Module):
    """Two 3×3 convolutions, the second attended by the first: map2 · σ(conv(map1)).

    map1 and map2 come out of convolutions with BatchNorm and ReLU, map2 from map1; conv is 1×1. A number for each pixel
    and channel says how much of map2 goes on.

    Attributes:
        width: channels of both maps.
    """

    width: int
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, width]."""
        block = partial(ConvBlock, self.width, 3, 1, axis_name=self.axis_name, dtype=self.dtype)
        map1 = block(name="map1")(x, train)
        map2 = block(name="map2")(map1, train)
        # The sigmoid must not start saturated, however many channels are summed.
        init = scaled_normal(1.0, "in")
        mask = Conv(self.width, use_bias=True, dtype=self.dtype, kernel_init=init, name="mask")(map1)
        return map2 * nn.sigmoid(mask)


class SoftAttentionDecoder(nn.Module):
    """From five maps of strides 2 to 32 to one task's logits.

    A stage enlarges the map bilinearly, narrowed by a 1×1 convolution, puts the encoder's map of that stride beside it
    as it is, and runs `SoftAttention`. The last stage, to stride 1, has no skip. The head is a 1×1 convolution.

    Attributes:
        channels: of the head, e.g. the number of classes.
        widths: channels of the stages to strides 16, 8, 4, 2 and 1.
        head_stride: 1, 2 or 4: where the head is, and the last stage. Its logits are enlarged.
        activated: for each map, whether it is normalised and rectified; else that is done here.
    """

    channels: int
    widths: tuple[int, ...]
    head_stride: int
    activated: tuple[bool, ...]
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: tuple[jax.Array, ...], size: tuple[int, int], train: bool) -> jax.Array:
        """Returns logits float32 [B, *size, channels]."""
        maps = {2**i: x for i, x in enumerate(features, start=1)}
        for stride, activated in zip(maps, self.activated, strict=True):
            if not activated and stride >= self.head_stride:
                norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f"norm_stride{stride}")
                maps[stride] = nn.relu(norm(maps[stride], train))

        x = maps[32]
        for width, stride in zip(self.widths, (16, 8, 4, 2, 1), strict=True):
            if stride < self.head_stride:
                break
            # A 1×1 convolution commutes with the enlargement, and costs a quarter before it.
            up = Conv(width, dtype=self.dtype, name=f"stride{stride}_up")(x)
            if stride == 1:
                x = resize(up, size)
            else:
                skip = maps[stride]
                x = jnp.concatenate([resize(up, (skip.shape[1], skip.shape[2])), skip], axis=-1)
            x = SoftAttention(width, self.axis_name, self.dtype, name=f"stride{stride}_attention")(x, train)

        # Nearly zero at first, so that the losses start at those of a guess, whatever the task.
        init, dtype = scaled_normal(1e-3, "in"), jnp.promote_types(self.dtype, jnp.float32)
        logits = Conv(self.channels, use_bias=True, dtype=dtype, kernel_init=init, name="head")(x)
        return resize(logits, size)


class AdaMTNet(nn.Module):
    """A shared encoder and for each task a U-Net's decoder with soft attention inside its stages.

    Parameters are `encoder/...` (shared) and `decoder_<task>/...`.

    Sure of the paper are a densely connected encoder that all tasks share, decoders of their own as in a U-Net, and
    soft attention in them. Where the attention stands and its formula are as two public reimplementations read it; the
    paper's own code is not known to us. Ours is: the encoder, of which DenseNet-121 is nearest to the paper's; widths;
    bilinear enlargement; no dropout. No decoder sees another. The paper's loss weights are the weighting `adamt`.

    Attributes:
        backbone: a name that `models.encoder` knows.
        heads: task → channels, in the order of the outputs.
        decoder_channels: widths of the decoders' stages, to strides 16, 8, 4, 2 and 1.
        head_stride: 1, 2 or 4: where the heads are; the logits are enlarged from there.
        remat: whether the backward pass computes what is in the encoder's blocks and the decoders anew: less memory,
            more time, the same results.
        axis_name: mapped axis for synchronised batch statistics.
        dtype: of the computation, e.g. "bfloat16"; parameters, batch statistics, heads and logits are float32.

    Raises:
        ValueError: an attribute's value makes no sense; the message names it.
    """

    backbone: str
    heads: Mapping[str, int]
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    head_stride: int = 1
    remat: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the attributes and makes them hashable, so that models can be static arguments."""
        if not self.heads:
            raise ValueError("heads is empty: give at least one task → channels")
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
        decoder_class = SoftAttentionDecoder
        if self.remat:
            decoder_class = nn.remat(SoftAttentionDecoder, static_argnums=(2, 3))
        for task, channels in self.heads.items():
            decoder = decoder_class(
                channels=channels,
                widths=self.decoder_channels,
                head_stride=self.head_stride,
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
