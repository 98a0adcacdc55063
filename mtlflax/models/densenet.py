"""DenseNet encoders (Huang et al. 2017), exactly torchvision's.

Names follow torchvision's state dict below `features.`: `denseblock1.denselayer1.norm1.weight` is
`denseblock1/denselayer1/norm1/scale` here. The classifier is left out.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.layers import BatchNorm, Conv, average_pool, max_pool, scaled_normal

# name: layers a block. All have growth rate 32, bottlenecks 4 × 32 wide and a stem of 64 channels.
VARIANTS: dict[str, tuple[int, int, int, int]] = {
    "densenet121": (6, 12, 24, 16),
    "densenet169": (6, 12, 32, 32),
}
GROWTH = 32
MIN_SIZE = 32

_init = scaled_normal(2.0, "in")


class DenseLayer(nn.Module):
    """Norm, ReLU, 1×1, norm, ReLU, 3×3: [B, H, W, C] -> the 32 new channels [B, H, W, 32]."""

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns the new channels."""
        conv = partial(Conv, dtype=self.dtype, kernel_init=_init)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        x = conv(4 * GROWTH, name="conv1")(nn.relu(norm(name="norm1")(x, train)))
        return conv(GROWTH, 3, 1, 1, name="conv2")(nn.relu(norm(name="norm2")(x, train)))


class DenseBlock(nn.Module):
    """Layers that each see what all before them gave: [B, H, W, C] -> [B, H, W, C + 32 × depth]."""

    depth: int
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns the input's channels and all new ones."""
        for layer in range(1, self.depth + 1):
            new = DenseLayer(self.axis_name, self.dtype, name=f"denselayer{layer}")(x, train)
            x = jnp.concatenate([x, new], axis=-1)
        return x


class Transition(nn.Module):
    """Norm, ReLU, 1×1, 2×2 average: [B, H, W, C] -> [B, H // 2, W // 2, C // 2]."""

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns half the channels on half the grid."""
        features = x.shape[-1] // 2
        x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="norm")(x, train)
        conv = Conv(features, dtype=self.dtype, kernel_init=_init, name="conv")
        return average_pool(conv(nn.relu(x)))


class DenseNet(nn.Module):
    """The encoder: images [B, H, W, 3], normalised, to five maps of strides 2, 4, 8, 16 and 32.

    The maps are torchvision's `relu0` (64 channels), `denseblock1`, `denseblock2`, `denseblock3`
    (256, 512, 1024 channels for DenseNet-121) and `norm5` (1024), to the letter: a dense block's
    output is raw, neither normalised nor rectified (the transition behind it does that), and the
    ReLU after `norm5` lies outside torchvision's `features`. `activated` says which maps still need
    both; the decoders here begin with them.

    Attributes:
        variant: a key of `VARIANTS`.
        axis_name: mapped axis for synchronised batch statistics.
        dtype: of the computation and of the features.

    Raises:
        ValueError: an image side is under 32 pixels (the last map would be empty).
    """

    variant: str
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @property
    def activated(self) -> tuple[bool, ...]:
        """Which of the five maps come out of a ReLU, behind a normalisation: the first alone."""
        return (True, False, False, False, False)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Returns the five maps, finest first."""
        if min(images.shape[1:3]) < MIN_SIZE:
            raise ValueError(
                f"{self.variant} needs images of at least {MIN_SIZE}×{MIN_SIZE} pixels, "
                f"got {images.shape[1]}×{images.shape[2]}"
            )
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        conv = Conv(64, 7, 2, 3, dtype=self.dtype, kernel_init=_init, name="conv0")
        x = nn.relu(norm(name="norm0")(conv(images), train))
        features = [x]
        x = max_pool(x)
        for block, depth in enumerate(VARIANTS[self.variant], start=1):
            x = DenseBlock(depth, self.axis_name, self.dtype, name=f"denseblock{block}")(x, train)
            if block < 4:
                features.append(x)
                x = Transition(self.axis_name, self.dtype, name=f"transition{block}")(x, train)
        features.append(norm(name="norm5")(x, train))
        return tuple(features)
