"""ResNet encoders (He et al. 2016), exactly as in torchvision.

The structure is "v1.5": the stride of a bottleneck is in its 3×3 convolution. Names follow those of torchvision's state
dict: `layer1.0.conv1.weight` is `layer1_0/conv1/kernel`, `layer1.0.downsample.0` is `layer1_0/downsample_conv` and
`downsample.1` is `downsample_bn`. The classifier `fc` is left out.
"""

from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from mtlflax.models.checks import check_choice
from mtlflax.models.layers import BatchNorm, Conv, Layer, max_pool
from mtlflax.models.staged import OUTPUT_STRIDES, StagedEncoder, dilation

# Name → (blocks per stage, whether they are bottlenecks).
VARIANTS: dict[str, tuple[tuple[int, int, int, int], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}


class Block(Layer):
    """A residual block: 3×3 and 3×3, or a bottleneck of 1×1, 3×3 and 4 times wider 1×1."""

    features: int
    stride: int
    bottleneck: bool
    dilations: tuple[int, int] = (1, 1)  # of the first 3×3, which has the stride, and of the second, if there is one

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return [B, ceil(H / stride), ceil(W / stride), features or 4 times as many]."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, **self.common)
        width = self.features * (4 if self.bottleneck else 1)
        first, second = self.dilations

        if self.bottleneck:
            y = conv(self.features, name="conv1")(x)
            norm1 = norm(name="bn1").prepare(y, train)
            y = conv(self.features, 3, self.stride, first, first, name="conv2")(y, norm1)
            norm2 = norm(name="bn2").prepare(y, train)
            y = norm(name="bn3")(conv(width, name="conv3")(y, norm2), train)
        else:
            y = conv(width, 3, self.stride, first, first, name="conv1")(x)
            norm1 = norm(name="bn1").prepare(y, train)
            y = norm(name="bn2")(conv(width, 3, 1, second, second, name="conv2")(y, norm1), train)

        if self.stride != 1 or x.shape[-1] != width:
            x = conv(width, 1, self.stride, name="downsample_conv")(x)
            x = norm(name="downsample_bn")(x, train)
        return nn.relu(y + x)


class ResNet(StagedEncoder):
    """The ResNet encoder. Any image size will do; a side of n pixels has ceil(n / stride) in a map.

    The maps are torchvision's `relu` (64 channels) and `layer1` to `layer4` (256, 512, 1024, 2048 channels with
    bottlenecks; 64, 128, 256, 512 without), all after a ReLU. Dilation is torchvision's
    `replace_stride_with_dilation`, which it has for bottlenecks alone.
    """

    activated: ClassVar[tuple[bool, ...]] = (True,) * 5
    last_stage: ClassVar[str] = "layer4_"

    def setup(self) -> None:
        check_choice("output_stride", self.output_stride, OUTPUT_STRIDES)
        depths, bottleneck = VARIANTS[self.variant]
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        self.conv1 = Conv(64, 7, 2, 3, dtype=self.dtype)
        self.bn1 = BatchNorm(**self.common)
        for stage, depth in enumerate(depths):
            dilated = dilation(stage, self.output_stride)
            before = dilation(max(stage - 1, 0), self.output_stride)
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 and dilated == before else 1
                dilations = (before if index == 0 else dilated, dilated)
                name = f"layer{stage + 1}_{index}"
                setattr(self, name, block(64 * 2**stage, stride, bottleneck, dilations, **self.common))

    def stem(self, images: jax.Array, train: bool) -> jax.Array:
        """Return the first map, of stride 2."""
        return nn.relu(self.bn1(self.conv1(images), train))

    def stage(self, stage: int, x: jax.Array, train: bool) -> list[jax.Array]:
        """Return the map behind each block of a stage, 0 to 3, given the map before the stage."""
        x = max_pool(x) if stage == 0 else x
        given = []
        for index in range(VARIANTS[self.variant][0][stage]):
            x = getattr(self, f"layer{stage + 1}_{index}")(x, train)
            given.append(x)
        return given
