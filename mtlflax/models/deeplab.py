"""DeepLab for several tasks: a shared dilated encoder; atrous spatial pyramid pooling and a head per task.

LibMTL's network for Cityscapes and NYUv2, on which most published comparisons of weighting methods are made.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlflax.models.blocks import activate, head
from mtlflax.models.checks import check_choice, check_whole
from mtlflax.models.encoders import activated, encoder
from mtlflax.models.layers import ConvBlock, Layer
from mtlflax.models.network import BranchedNetwork
from mtlflax.models.resize import resize
from mtlflax.models.staged import OUTPUT_STRIDES


class ASPP(Layer):
    """Atrous spatial pyramid pooling with the image's mean (Chen et al. 2017, arXiv:1706.05587, section 3.3).

    In parallel: a 1×1 convolution, a 3×3 convolution per rate, and a 1×1 convolution of the mean over all pixels. A
    1×1 convolution fuses them. Each has BatchNorm and ReLU.
    """

    width: int  # channels of each part and of the result
    rates: tuple[int, ...]  # dilations of the 3×3 convolutions, in pixels of this map

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, H, W, C] to [B, H, W, width]."""
        block = partial(ConvBlock, self.width, **self.common)
        parts = [block(name="point")(x, train)]
        for i, rate in enumerate(self.rates, start=1):
            parts.append(block(kernel_size=3, padding=rate, dilation=rate, name=f"atrous{i}")(x, train))
        mean = block(name="mean")(jnp.mean(x, (1, 2), keepdims=True), train)
        parts.append(jnp.broadcast_to(mean, parts[0].shape))
        return block(name="project")(jnp.concatenate(parts, axis=-1), train)


class DeepLabHead(Layer):
    """The branch of a task: ASPP, a 3×3 convolution and the head; the logits are enlarged to the size of the images.

    With `low_channels`, it is the decoder of DeepLabv3+ (Chen et al. 2018, arXiv:1802.02611, section 3.1): the result
    of the ASPP is enlarged to stride 4 and concatenated with the encoder's map there, narrowed to that many channels.
    Two 3×3 convolutions follow.
    """

    channels: int  # of the head, e.g. the number of classes
    width: int  # channels of the ASPP and the convolutions behind it
    rates: tuple[int, ...]  # of the ASPP
    low_channels: int  # of the map of stride 4; 0 = without it
    activated: tuple[bool, ...]  # whether each map is normalized and rectified already

    @nn.compact
    def __call__(self, features: tuple[jax.Array, ...], size: tuple[int, int], train: bool) -> jax.Array:
        """Map the last features, or those of stride 4 and the last ones, to logits float32 [B, *size, channels]."""
        block = partial(ConvBlock, **self.common)
        maps = activate(features, self.activated, train, **self.common)
        x = ASPP(self.width, self.rates, **self.common, name="aspp")(maps[-1], train)
        convolutions = 1
        if self.low_channels:
            low = block(features=self.low_channels, name="low")(maps[0], train)
            x = jnp.concatenate([resize(x, (low.shape[1], low.shape[2])), low], axis=-1)
            convolutions = 2
        for i in range(1, convolutions + 1):
            x = block(features=self.width, kernel_size=3, padding=1, name=f"block{i}")(x, train)
        return resize(head(self.channels, self.dtype, name="head")(x), size)


class DeepLabV3Plus(BranchedNetwork):
    """A shared dilated encoder and a `DeepLabHead` per task.

    Parameters are `encoder/...` (shared) and `decoder_<task>/...`. By default it is what LibMTL and the papers that use
    it call DeepLabV3+: ResNet-50 at output stride 8 and a head without the map of stride 4, Chen et al.'s DeepLabv3
    (2017). `low_channels=48` makes it their DeepLabv3+ (2018).

    Differences from LibMTL: no dropout behind the ASPP (there 0.5), and logits are enlarged with half-pixel centers
    (there with aligned corners).

    Attributes:
        output_stride: 8, 16 or 32, the stride of the encoder's last map.
        atrous_rates: of the ASPP, in pixels of that map: Chen et al.'s for output stride 8; they halve them at 16.
        aspp_channels: width of the ASPP and the convolutions behind it.
        low_channels: channels of the decoder's map of stride 4, 48 in DeepLabv3+; 0 = without it.
    """

    output_stride: int = 8
    atrous_rates: tuple[int, ...] = (12, 24, 36)
    aspp_channels: int = 256
    low_channels: int = 0

    @nn.nowrap
    def _check(self) -> None:
        check_whole({"low_channels": self.low_channels}, least=0)
        check_head(self.output_stride, self.atrous_rates, self.aspp_channels)

    def setup(self) -> None:
        self.encoder = encoder(self.backbone, output_stride=self.output_stride, remat=self.remat, **self.common)
        add_heads(self, self.low_channels, self._taken(activated(self.encoder)))

    def encode(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Run the trunk: images to the maps that the heads take."""
        return self._taken(self.encoder(images, train))

    @nn.nowrap
    def _taken(self, of_maps: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return, of five items for the five maps, those of the maps that the heads take."""
        return (of_maps[1], of_maps[4]) if self.low_channels else (of_maps[4],)


def add_heads(network: Any, low_channels: int, activated: tuple[bool, ...]) -> None:
    """Give a network, which has the options that `check_head` checks, a `DeepLabHead` per task."""
    head_class = network.rematted(DeepLabHead, 2, 3)
    options = (network.aspp_channels, network.atrous_rates, low_channels, activated)
    for task, channels in network.heads.items():
        setattr(network, f"decoder_{task}", head_class(channels, *options, **network.common))


def check_head(output_stride: int, atrous_rates: tuple[int, ...], aspp_channels: int) -> None:
    """Raise ValueError, naming the option of a dilated encoder or an ASPP, for a value that makes no sense."""
    check_choice("output_stride", output_stride, OUTPUT_STRIDES)
    if not isinstance(atrous_rates, tuple | list) or not atrous_rates:
        raise ValueError(f"atrous_rates is {atrous_rates}: must be at least one number")
    check_whole({"atrous_rates": atrous_rates, "aspp_channels": aspp_channels})
