"""DenseNet encoders (Huang et al. 2017), exactly as in torchvision.

Names follow torchvision's state dict below `features.`: `denseblock1.denselayer1.norm1.weight` is
`denseblock1/denselayer1/norm1/scale` here. The classifier is left out.
"""

from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlflax.models.backward import settled
from mtlflax.models.checks import check_choice
from mtlflax.models.layers import BatchNorm, Conv, Layer, Normalization, average_pool, max_pool, scaled_normal
from mtlflax.models.staged import OUTPUT_STRIDES, StagedEncoder, dilation

# Name → layers per block. All have growth rate 32, bottlenecks 4 × 32 wide and a stem of 64 channels.
VARIANTS = {"densenet121": (6, 12, 24, 16), "densenet169": (6, 12, 32, 32)}
GROWTH = 32
MIN_SIZE = 32

_init = scaled_normal(2.0, "in")


class DenseLayer(Layer):
    """Norm, ReLU, 1×1, norm, ReLU, 3×3: maps of C channels together -> the 32 new channels [B, H, W, 32]."""

    dilation: int = 1

    @nn.compact
    def __call__(
        self, maps: tuple[jax.Array, ...], known: Normalization | None, train: bool
    ) -> tuple[jax.Array, Normalization]:
        """Return the new channels, and the normalization of all maps. `known` is that of all but the last."""
        conv = partial(Conv, dtype=self.dtype, kernel_init=_init)
        norm = partial(BatchNorm, **self.common)
        norm1 = norm(name="norm1").prepare(maps[-1], train, known)
        x = conv(4 * GROWTH, name="conv1")(maps, norm1)
        norm2 = norm(name="norm2").prepare(x, train)
        return conv(GROWTH, 3, 1, self.dilation, self.dilation, name="conv2")(x, norm2), norm1


class DenseBlock(Layer):
    """Layers that each see the outputs of all earlier ones: [B, H, W, C] -> [B, H, W, C + 32 × depth]."""

    depth: int
    dilation: int = 1
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Return, behind each layer, the channels of the input and all new ones."""
        layer = nn.remat(DenseLayer, static_argnums=(3,)) if self.remat else DenseLayer
        maps: tuple[jax.Array, ...] = (settled(x),)
        norm, given = None, []
        for index in range(1, self.depth + 1):
            new, norm = layer(self.dilation, **self.common, name=f"denselayer{index}")(maps, norm, train)
            maps = (*maps, new)
            given.append(jnp.concatenate(maps, axis=-1))
        return given


class Transition(Layer):
    """Norm, ReLU, 1×1, 2×2 average: [B, H, W, C] -> [B, H // 2, W // 2, C // 2]; the average only if `pool`."""

    pool: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return half the channels, on half the grid."""
        norm = BatchNorm(**self.common, name="norm").prepare(x, train)
        conv = Conv(x.shape[-1] // 2, dtype=self.dtype, kernel_init=_init, name="conv")
        if not self.pool:
            return conv(x, norm)
        # A 1×1 convolution commutes with the average, and costs a quarter behind it.
        return conv(average_pool(nn.relu(norm(x).astype(self.dtype))))


class DenseNet(StagedEncoder):
    """The DenseNet encoder, for images of at least 32×32 pixels.

    The maps are torchvision's `relu0` (64 channels), `denseblock1`, `denseblock2`, `denseblock3` (256, 512, 1024
    channels for DenseNet-121) and `norm5` (1024). The output of a dense block is raw, neither normalized nor rectified
    (the transition behind it does that), and the ReLU after `norm5` is outside torchvision's `features`.

    With a smaller output stride, transitions do not pool, and the convolutions behind them are dilated. Smaller images,
    whose last map would be empty, are a ValueError.
    """

    activated: ClassVar[tuple[bool, ...]] = (True, False, False, False, False)
    last_stage: ClassVar[str] = "denseblock4/"

    def setup(self) -> None:
        check_choice("output_stride", self.output_stride, OUTPUT_STRIDES)
        norm = partial(BatchNorm, **self.common)
        self.conv0 = Conv(64, 7, 2, 3, dtype=self.dtype, kernel_init=_init)
        self.norm0, self.norm5 = norm(), norm()
        dilated = [dilation(stage, self.output_stride) for stage in range(4)]
        for stage, depth in enumerate(VARIANTS[self.variant]):
            setattr(self, f"denseblock{stage + 1}", DenseBlock(depth, dilated[stage], self.remat, **self.common))
            if stage < 3:
                transition = Transition(dilated[stage] == dilated[stage + 1], **self.common)
                setattr(self, f"transition{stage + 1}", transition)

    def stem(self, images: jax.Array, train: bool) -> jax.Array:
        """Return the first map, of stride 2."""
        _, h, w, _ = images.shape
        if min(h, w) < MIN_SIZE:
            raise ValueError(f"{self.variant} needs images of at least {MIN_SIZE}×{MIN_SIZE} pixels, got {h}×{w}")
        return nn.relu(self.norm0(self.conv0(images), train))

    def stage(self, stage: int, x: jax.Array, train: bool) -> list[jax.Array]:
        """Return the maps behind the layers, each with the channels of those before; the last stage ends in `norm5`."""
        x = max_pool(x) if stage == 0 else getattr(self, f"transition{stage}")(x, train)
        given = getattr(self, f"denseblock{stage + 1}")(x, train)
        return [*given, self.norm5(given[-1], train)] if stage == 3 else given
