"""DenseNet encoders (Huang et al. 2017), exactly as in torchvision.

Names follow torchvision's state dict below `features.`: `denseblock1.denselayer1.norm1.weight` is
`denseblock1/denselayer1/norm1/scale` here. The classifier is left out.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.checks import check_choice
from mtlflax.models.layers import BatchNorm, Conv, average_pool, max_pool, scaled_normal
from mtlflax.models.staged import OUTPUT_STRIDES, StagedEncoder, dilation

# Name → layers per block. All have growth rate 32, bottlenecks 4 × 32 wide and a stem of 64 channels.
VARIANTS: dict[str, tuple[int, int, int, int]] = {
    "densenet121": (6, 12, 24, 16),
    "densenet169": (6, 12, 32, 32),
}
GROWTH = 32
MIN_SIZE = 32

_init = scaled_normal(2.0, "in")


class DenseLayer(nn.Module):
    """Norm, ReLU, 1×1, norm, ReLU, 3×3: [B, H, W, C] -> the 32 new channels [B, H, W, 32]."""

    dilation: int = 1
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the new channels."""
        conv = partial(Conv, dtype=self.dtype, kernel_init=_init)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        x = conv(4 * GROWTH, name="conv1")(nn.relu(norm(name="norm1")(x, train)))
        x = nn.relu(norm(name="norm2")(x, train))
        return conv(GROWTH, 3, 1, self.dilation, self.dilation, name="conv2")(x)


class DenseBlock(nn.Module):
    """Layers that each see the outputs of all earlier ones: [B, H, W, C] -> [B, H, W, C + 32 × depth]."""

    depth: int
    dilation: int = 1
    remat: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Return, behind each layer, the channels of the input and all new ones."""
        layer = nn.remat(DenseLayer, static_argnums=(2,)) if self.remat else DenseLayer
        given = []
        for index in range(1, self.depth + 1):
            new = layer(self.dilation, self.axis_name, self.dtype, name=f"denselayer{index}")(x, train)
            x = jnp.concatenate([x, new], axis=-1)
            given.append(x)
        return given


class Transition(nn.Module):
    """Norm, ReLU, 1×1, 2×2 average: [B, H, W, C] -> [B, H // 2, W // 2, C // 2]; the average only if `pool`."""

    pool: bool = True
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return half the channels, on half the grid."""
        features = x.shape[-1] // 2
        x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="norm")(x, train)
        x = Conv(features, dtype=self.dtype, kernel_init=_init, name="conv")(nn.relu(x))
        return average_pool(x) if self.pool else x


class DenseNet(StagedEncoder):
    """The DenseNet encoder, for images of at least 32×32 pixels.

    The maps are torchvision's `relu0` (64 channels), `denseblock1`, `denseblock2`, `denseblock3` (256, 512, 1024
    channels for DenseNet-121) and `norm5` (1024). The output of a dense block is raw, neither normalized nor rectified
    (the transition behind it does that), and the ReLU after `norm5` is outside torchvision's `features`.

    With a smaller output stride, transitions do not pool, and the convolutions behind them are dilated.

    Raises:
        ValueError: an image side is under 32 pixels (the last map would be empty).
    """

    @property
    def activated(self) -> tuple[bool, ...]:
        """Whether each of the five maps is normalized and rectified: only the first is."""
        return (True, False, False, False, False)

    @property
    def last_stage(self) -> str:
        """How the paths of the last stage's parameters begin."""
        return "denseblock4/"

    def setup(self) -> None:
        """Build the stem, the blocks and the transitions."""
        check_choice("output_stride", self.output_stride, OUTPUT_STRIDES)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        self.conv0 = Conv(64, 7, 2, 3, dtype=self.dtype, kernel_init=_init)
        self.norm0, self.norm5 = norm(), norm()
        dilated = [dilation(stage, self.output_stride) for stage in range(4)]
        for stage, depth in enumerate(VARIANTS[self.variant]):
            block = DenseBlock(depth, dilated[stage], self.remat, self.axis_name, self.dtype)
            setattr(self, f"denseblock{stage + 1}", block)
            if stage < 3:
                transition = Transition(dilated[stage] == dilated[stage + 1], self.axis_name, self.dtype)
                setattr(self, f"transition{stage + 1}", transition)

    def stem(self, images: jax.Array, train: bool) -> jax.Array:
        """Return the first map, of stride 2."""
        if min(images.shape[1:3]) < MIN_SIZE:
            raise ValueError(
                f"{self.variant} needs images of at least {MIN_SIZE}×{MIN_SIZE} pixels, "
                f"got {images.shape[1]}×{images.shape[2]}"
            )
        return nn.relu(self.norm0(self.conv0(images), train))

    def stage(self, stage: int, x: jax.Array, train: bool) -> list[jax.Array]:
        """Return the map behind each layer of a stage, 0 to 3, given the map before the stage.

        Each has the channels of those before it too; the last stage ends with `norm5`.
        """
        x = max_pool(x) if stage == 0 else getattr(self, f"transition{stage}")(x, train)
        given = getattr(self, f"denseblock{stage + 1}")(x, train)
        return [*given, self.norm5(given[-1], train)] if stage == 3 else given
