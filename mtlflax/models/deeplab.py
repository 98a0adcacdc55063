"""DeepLab for several tasks: a dilated encoder for all, and for each atrous spatial pyramid pooling and a head.

LibMTL's network for Cityscapes and NYUv2, on which most published comparisons of weighting methods are made.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.encoders import encoder
from mtlflax.models.layers import BatchNorm, Conv, ConvBlock, check_output_stride, resize, scaled_normal
from mtlflax.models.network import BranchedNetwork, check_whole


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling with the image's mean (Chen et al. 2017, arXiv:1706.05587, section 3.3).

    Beside each other: a 1×1 convolution, a 3×3 convolution for each rate, and a 1×1 convolution of the mean over all
    pixels; a 1×1 convolution brings them together. Each has BatchNorm and ReLU.

    Attributes:
        width: channels of each part and of the result.
        rates: dilations of the 3×3 convolutions, in pixels of this map.
    """

    width: int
    rates: tuple[int, ...]
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, width]."""
        block = partial(ConvBlock, self.width, axis_name=self.axis_name, dtype=self.dtype)
        parts = [block(name="point")(x, train)]
        for i, rate in enumerate(self.rates, start=1):
            parts.append(block(3, rate, rate, name=f"atrous{i}")(x, train))
        mean = block(name="mean")(jnp.mean(x, (1, 2), keepdims=True), train)
        parts.append(jnp.broadcast_to(mean, parts[0].shape))
        return block(name="project")(jnp.concatenate(parts, axis=-1), train)


class DeepLabHead(nn.Module):
    """One task's part: ASPP, a 3×3 convolution and the head; its logits are enlarged to the images' size.

    With `low_channels`, DeepLabv3+'s decoder (Chen et al. 2018, arXiv:1802.02611, section 3.1): the ASPP's
    result is enlarged to stride 4, the encoder's map there, narrowed to so many channels, put beside it, and two 3×3
    convolutions follow.

    Attributes:
        channels: of the head, e.g. the number of classes.
        width: channels of the ASPP and the convolutions behind it.
        rates: of the ASPP.
        low_channels: of the map of stride 4; 0: without it.
        activated: for each map, whether it is normalised and rectified; else that is done here.
    """

    channels: int
    width: int
    rates: tuple[int, ...]
    low_channels: int
    activated: tuple[bool, ...]
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: tuple[jax.Array, ...], size: tuple[int, int], train: bool) -> jax.Array:
        """Takes the last map, or that of stride 4 and the last one; returns logits float32 [B, *size, channels]."""
        block = partial(ConvBlock, axis_name=self.axis_name, dtype=self.dtype)
        maps = list(features)
        for i, activated in enumerate(self.activated):
            if not activated:
                norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f"norm{i}")
                maps[i] = nn.relu(norm(maps[i], train))

        x = ASPP(self.width, self.rates, self.axis_name, self.dtype, name="aspp")(maps[-1], train)
        convolutions = 1
        if self.low_channels:
            low = block(self.low_channels, name="low")(maps[0], train)
            x = jnp.concatenate([resize(x, (low.shape[1], low.shape[2])), low], axis=-1)
            convolutions = 2
        for i in range(1, convolutions + 1):
            x = block(self.width, 3, 1, name=f"block{i}")(x, train)

        # Nearly zero at first, so that the losses start at those of a guess, whatever the task.
        init, dtype = scaled_normal(1e-3, "in"), jnp.promote_types(self.dtype, jnp.float32)
        logits = Conv(self.channels, use_bias=True, dtype=dtype, kernel_init=init, name="head")(x)
        return resize(logits, size)


class DeepLabV3Plus(BranchedNetwork):
    """A shared dilated encoder and a `DeepLabHead` for each task.

    Parameters are `encoder/...` (shared) and `decoder_<task>/...`.

    By default it is what LibMTL and the papers that use it call DeepLabV3+: ResNet-50 at output stride 8 and a head
    without the map of stride 4, in Chen et al.'s terms DeepLabv3 (2017). `low_channels=48` makes it their DeepLabv3+
    (2018). Two things are not LibMTL's: no dropout behind the ASPP (there 0.5), and logits are enlarged with
    half-pixel centres (there with aligned corners).

    Attributes:
        output_stride: 8, 16 or 32: that of the encoder's last map.
        atrous_rates: of the ASPP, in pixels of that map. Chen et al.'s, (12, 24, 36), are for output stride 8; they
            halve them at 16.
        aspp_channels: width of the ASPP and the convolutions behind it.
        low_channels: channels of the decoder's map of stride 4, 48 in DeepLabv3+; 0: without it.
    """

    output_stride: int = 8
    atrous_rates: tuple[int, ...] = (12, 24, 36)
    aspp_channels: int = 256
    low_channels: int = 0

    @nn.nowrap
    def check(self) -> None:
        """Raises ValueError, naming the attribute, for a network that there cannot be."""
        check_whole({"low_channels": self.low_channels}, least=0)
        check_head(self.output_stride, self.atrous_rates, self.aspp_channels)

    def setup(self) -> None:
        """Builds the encoder and the heads."""
        self.encoder = encoder(
            self.backbone,
            output_stride=self.output_stride,
            remat=self.remat,
            **self.common,
        )
        head = nn.remat(DeepLabHead, static_argnums=(2, 3)) if self.remat else DeepLabHead
        for task, channels in self.heads.items():
            decoder = head(
                channels=channels,
                width=self.aspp_channels,
                rates=self.atrous_rates,
                low_channels=self.low_channels,
                activated=self._taken(self.encoder.activated),
                **self.common,
            )
            setattr(self, f"decoder_{task}", decoder)

    def encode(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """The shared part: images to the maps that the heads take."""
        return self._taken(self.encoder(images, train))

    @nn.nowrap
    def size_of(self, features: tuple[jax.Array, ...], task: str) -> tuple[int, int]:
        """The last map's times `output_stride`."""
        return (self.output_stride * features[-1].shape[1], self.output_stride * features[-1].shape[2])

    @nn.nowrap
    def _taken(self, of_maps: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of five things, one a map, those of the maps that the heads take."""
        return (of_maps[1], of_maps[4]) if self.low_channels else (of_maps[4],)


def check_head(output_stride: int, atrous_rates: tuple[int, ...], aspp_channels: int) -> None:
    """Raises ValueError, naming the option, for a dilated encoder or an ASPP that there cannot be."""
    check_output_stride(output_stride)
    if not isinstance(atrous_rates, tuple | list) or not atrous_rates:
        raise ValueError(f"atrous_rates is {atrous_rates}: give at least one")
    check_whole({"atrous_rates": atrous_rates, "aspp_channels": aspp_channels})
