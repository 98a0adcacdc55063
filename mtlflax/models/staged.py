"""What the built-in encoders have in common: a stem, four stages, an output stride."""

from typing import ClassVar

import jax

from mtlflax.models.layers import Layer

OUTPUT_STRIDES = (8, 16, 32)


class StagedEncoder(Layer):
    """Normalized images [B, H, W, 3] to five maps of strides 2, 4, 8, 16 and 32, the stem's and those of four stages.

    Attributes:
        variant: a name of the family's `VARIANTS`.
        output_stride: 8, 16 or 32, the stride of the last map. Beyond it, convolutions are dilated, not strided.
        remat: recompute each block in the backward pass instead of keeping its intermediate values.
    """

    variant: str
    output_stride: int = 32
    remat: bool = False

    activated: ClassVar[tuple[bool, ...]]  # whether each map is normalized and rectified; decoders do it for the others
    last_stage: ClassVar[str]  # how the paths of the last stage's parameters begin

    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Return the five maps, finest first."""
        features = [self.stem(images, train)]
        for stage in range(4):
            features.append(self.stage(stage, features[-1], train)[-1])
        return tuple(features)

    def stem(self, images: jax.Array, train: bool) -> jax.Array:
        """Return the first map, of stride 2."""
        raise NotImplementedError

    def stage(self, stage: int, x: jax.Array, train: bool) -> list[jax.Array]:
        """Return the map behind each block of a stage, 0 to 3, given the map before it; the last is the stage's own."""
        raise NotImplementedError


def dilation(stage: int, output_stride: int) -> int:
    """Return the dilation of a stage, 0 to 3, whose stride would be 4 to 32 if it did not stop at `output_stride`."""
    return max(1, 4 * 2**stage // output_stride)
