"""ResNet encoders (He et al. 2016), exactly torchvision's.

The structure is "v1.5": a bottleneck's stride sits in its 3×3 convolution. Names follow those
of torchvision's state dict: `layer1.0.conv1.weight` is `layer1_0/conv1/kernel`,
`layer1.0.downsample.0` is `layer1_0/downsample_conv` and `downsample.1` is `downsample_bn`. The
classifier `fc` is left out.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.layers import BatchNorm, Conv, check_output_stride, dilation, max_pool

# name: (blocks a stage, whether blocks are bottlenecks)
VARIANTS: dict[str, tuple[tuple[int, int, int, int], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}


class Block(nn.Module):
    """A residual block: 3×3 and 3×3, or a bottleneck of 1×1, 3×3 and 4 times wider 1×1."""

    features: int
    stride: int
    bottleneck: bool
    dilation: int = 1
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns [B, ceil(H / stride), ceil(W / stride), features or 4 times as many]."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        width = self.features * (4 if self.bottleneck else 1)

        if self.bottleneck:
            y = conv(self.features, name="conv1")(x)
            y = nn.relu(norm(name="bn1")(y, train))
            y = conv(self.features, 3, self.stride, self.dilation, self.dilation, name="conv2")(y)
            y = nn.relu(norm(name="bn2")(y, train))
            y = norm(name="bn3")(conv(width, name="conv3")(y), train)
        else:
            y = conv(width, 3, self.stride, self.dilation, self.dilation, name="conv1")(x)
            y = nn.relu(norm(name="bn1")(y, train))
            y = norm(name="bn2")(conv(width, 3, 1, 1, name="conv2")(y), train)

        if self.stride != 1 or x.shape[-1] != width:
            x = conv(width, 1, self.stride, name="downsample_conv")(x)
            x = norm(name="downsample_bn")(x, train)
        return nn.relu(y + x)


class ResNet(nn.Module):
    """The encoder: images [B, H, W, 3], normalised, to five maps of strides 2, 4, 8, 16 and 32.

    The maps are torchvision's `relu` (64 channels) and `layer1` to `layer4` (256, 512, 1024, 2048
    channels with bottlenecks; 64, 128, 256, 512 without), all after a ReLU. A side of n pixels has
    ceil(n / stride) there; any image size will do.

    Attributes:
        variant: a key of `VARIANTS`.
        output_stride: 32, or 16 or 8: where strides would go beyond it, convolutions are dilated
            instead, as torchvision's `replace_stride_with_dilation` does, and the weights stay the same.
        remat: whether the backward pass computes each block anew instead of keeping what is in it.
        axis_name: mapped axis for synchronised batch statistics.
        dtype: of the computation and of the features.
    """

    variant: str
    output_stride: int = 32
    remat: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @property
    def activated(self) -> tuple[bool, ...]:
        """Which of the five maps come out of a ReLU, behind a normalisation: all of them."""
        return (True,) * 5

    def setup(self) -> None:
        """Builds the stem and the blocks."""
        check_output_stride(self.output_stride)
        depths, bottleneck = VARIANTS[self.variant]
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        self.conv1 = Conv(64, 7, 2, 3, dtype=self.dtype)
        self.bn1 = BatchNorm(axis_name=self.axis_name, dtype=self.dtype)
        for stage, depth in enumerate(depths):
            dilated = dilation(stage, self.output_stride)
            before = dilation(max(stage - 1, 0), self.output_stride)
            for index in range(depth):
                made = block(
                    features=64 * 2**stage,
                    stride=2 if stage > 0 and index == 0 and dilated == before else 1,
                    bottleneck=bottleneck,
                    dilation=before if index == 0 else dilated,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                )
                setattr(self, f"layer{stage + 1}_{index}", made)

    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Returns the five maps, finest first."""
        features = [self.stem(images, train)]
        for stage in range(4):
            features.append(self.stage(stage, features[-1], train)[-1])
        return tuple(features)

    def stem(self, images: jax.Array, train: bool) -> jax.Array:
        """Images to the first map, of stride 2."""
        return nn.relu(self.bn1(self.conv1(images), train))

    def stage(self, stage: int, x: jax.Array, train: bool) -> list[jax.Array]:
        """One of the four stages: the map before it to what its blocks give, the last of which is the next map."""
        x = max_pool(x) if stage == 0 else x
        given = []
        for index in range(VARIANTS[self.variant][0][stage]):
            x = getattr(self, f"layer{stage + 1}_{index}")(x, train)
            given.append(x)
        return given
