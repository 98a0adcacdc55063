"""Cross-stitch networks (Misra et al. 2016, arXiv:1604.03539)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlflax.models.checks import check_share
from mtlflax.models.layers import Layer
from mtlflax.models.soft_sharing import SoftSharing


class CrossStitch(Layer):
    """The part of a cross-stitch unit for one task: Σ_s α_s x_s over the maps x_s of all tasks."""

    index: int  # of the task
    own: float  # its own initial α; the others have equal parts of the rest
    per_channel: bool  # whether each channel has an α of its own

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Mix the maps of all tasks, each [B, H, W, C]."""
        tasks, width = len(maps), maps[0].shape[-1] if self.per_channel else 1

        def init(_: jax.Array) -> jax.Array:
            others = jnp.full((tasks, width), (1 - self.own) / (tasks - 1))
            return others.at[self.index].set(self.own)

        alpha = self.param("alpha", init).astype(self.dtype)
        return sum(a[None, None, None] * x for a, x in zip(alpha, maps, strict=True))


class CrossStitchNetwork(SoftSharing):
    """A column per task; behind each stage linear combinations of the maps of all columns.

    The paper stitches AlexNets behind their pooling and fully connected layers; here, units are behind the four stages
    of the encoders, as is usual for ResNets. They start as convex combinations, as in the paper, and are then free.

    Attributes:
        own: the initial share of a task's own map, above 0 and at most 1; the paper compares several.
        per_channel: whether each channel has weights of its own; otherwise one serves all channels of a map, as in
            LibMTL and in the code of MTAN's authors (where all α start at 1).
    """

    own: float = 0.9
    per_channel: bool = True

    @nn.nowrap
    def _check(self) -> None:
        check_share("own", self.own)
        super()._check()

    @nn.nowrap
    def unit(self, index: int) -> nn.Module:
        """Return the part of a cross-stitch unit for one task."""
        return CrossStitch(index, self.own, self.per_channel, **self.common)
