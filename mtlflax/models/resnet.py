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

from mtlflax.models.layers import BatchNorm, Conv, max_pool

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
            y = conv(self.features, 3, self.stride, 1, name="conv2")(y)
            y = nn.relu(norm(name="bn2")(y, train))
            y = norm(name="bn3")(conv(width, name="conv3")(y), train)
        else:
            y = conv(width, 3, self.stride, 1, name="conv1")(x)
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
        axis_name: mapped axis for synchronised batch statistics.
        dtype: of the computation and of the features.
    """

    variant: str
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @property
    def activated(self) -> tuple[bool, ...]:
        """Which of the five maps come out of a ReLU, behind a normalisation: all of them."""
        return (True,) * 5

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Returns the five maps, finest first."""
        depths, bottleneck = VARIANTS[self.variant]
        x = Conv(64, 7, 2, 3, dtype=self.dtype, name="conv1")(images)
        x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="bn1")(x, train)
        x = nn.relu(x)
        features = [x]
        x = max_pool(x)
        for stage, depth in enumerate(depths):
            for block in range(depth):
                x = Block(
                    features=64 * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    bottleneck=bottleneck,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
            features.append(x)
        return tuple(features)
