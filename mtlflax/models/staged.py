"""What the built-in encoders have in common: a stem, four stages, an output stride."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

OUTPUT_STRIDES = (8, 16, 32)


class StagedEncoder(nn.Module):
    """Normalized images [B, H, W, 3] to five maps of strides 2, 4, 8, 16 and 32, the stem's and those of four stages.

    Attributes:
        variant: a name of the family's `VARIANTS`.
        output_stride: 8, 16 or 32, the stride of the last map. Beyond it, convolutions are dilated instead of strided;
            the weights stay the same.
        remat: recompute each block in the backward pass instead of keeping its intermediate values.
        axis_name: mapped axis for synchronized batch statistics.
        dtype: of the computation and of the maps.
    """

    variant: str
    output_stride: int = 32
    remat: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Return the five maps, finest first."""
        features = [self.stem(images, train)]
        for stage in range(4):
            features.append(self.stage(stage, features[-1], train)[-1])
        return tuple(features)

    @property
    def activated(self) -> tuple[bool, ...]:
        """Whether each of the five maps is normalized and rectified; decoders do it for the others."""
        raise NotImplementedError

    @property
    def last_stage(self) -> str:
        """How the paths of the last stage's parameters begin."""
        raise NotImplementedError

    def stem(self, images: jax.Array, train: bool) -> jax.Array:
        """Return the first map, of stride 2."""
        raise NotImplementedError

    def stage(self, stage: int, x: jax.Array, train: bool) -> list[jax.Array]:
        """Return the map behind each block of a stage, 0 to 3, given the map before the stage.

        The last one is the stage's own map.
        """
        raise NotImplementedError


def dilation(stage: int, output_stride: int) -> int:
    """Return the dilation of a stage, 0 to 3, whose stride would be 4 to 32 if it did not stop at `output_stride`."""
    return max(1, 4 * 2**stage // output_stride)
