"""Cross-stitch networks (Misra et al. 2016, arXiv:1604.03539)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.soft_sharing import SoftSharing, check_own


class CrossStitch(nn.Module):
    """One task's part of a cross-stitch unit: Σ_s α_s x_s over the tasks' maps x_s.

    Attributes:
        index: of the task.
        own: its own α at first; the others have the rest in equal parts.
        per_channel: whether a channel has α of its own.
    """

    index: int
    own: float
    per_channel: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """All tasks' maps, each [B, H, W, C], to the mixed one."""
        tasks, width = len(maps), maps[0].shape[-1] if self.per_channel else 1

        def init(_: jax.Array) -> jax.Array:
            others = jnp.full((tasks, width), (1 - self.own) / (tasks - 1))
            return others.at[self.index].set(self.own)

        alpha = self.param("alpha", init).astype(self.dtype)
        return sum(a[None, None, None] * x for a, x in zip(alpha, maps, strict=True))


class CrossStitchNetwork(SoftSharing):
    """A column a task, behind each stage a linear combination of all columns' maps.

    The paper stitches AlexNets behind their pooling and fully connected layers; here it is done behind the encoders'
    four stages, as is usual for ResNets. The units start as convex combinations, as in the paper, and are free
    afterwards.

    Attributes:
        own: the share of a task's own map at first, above 0, at most 1. The paper compares several; the others have the
            rest in equal parts.
        per_channel: whether each channel has weights of its own; otherwise one for all channels of a map, as in
            LibMTL and in the code of MTAN's authors (where all α start at 1).
    """

    own: float = 0.9
    per_channel: bool = True

    @nn.nowrap
    def check(self) -> None:
        """Raises ValueError, naming the attribute, for a network that there cannot be."""
        check_own(self.own)
        super().check()

    @nn.nowrap
    def unit(self, index: int) -> nn.Module:
        """One task's part of a cross-stitch unit."""
        return CrossStitch(index, self.own, self.per_channel, self.dtype)
