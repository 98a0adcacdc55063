"""Sluice networks (Ruder et al. 2019, "Latent multi-task architecture learning", arXiv:1705.08142)."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlflax.models.checks import check_share, check_whole
from mtlflax.models.layers import ConvBlock, Layer
from mtlflax.models.soft_sharing import SoftSharing, shrink


class Subspaces(Layer):
    """α of one task: each subspace of its map becomes a linear combination of all subspaces of the maps of all tasks.

    A subspace is one of the equal parts of a map's channels. `alpha` is [subspaces to, tasks from, subspaces from].
    """

    index: int  # of the task
    subspaces: int  # the number of parts
    own: float  # the initial α of a subspace for itself; all others have equal parts of the rest

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Mix the maps of all tasks, each [B, H, W, C]; ValueError if C is not a multiple of the subspaces."""
        tasks, parts, channels = len(maps), self.subspaces, maps[0].shape[-1]
        if channels % parts:
            raise ValueError(f"subspaces is {parts}: must divide {channels}, the channels of one of the encoder's maps")

        def init(_: jax.Array) -> jax.Array:
            each = jnp.arange(parts)
            others = jnp.full((parts, tasks, parts), (1 - self.own) / (tasks * parts - 1))
            return others.at[each, self.index, each].set(self.own)

        alpha = self.param("alpha", init).astype(self.dtype)
        split = jnp.stack([x.reshape(*x.shape[:3], parts, channels // parts) for x in maps], axis=3)
        return jnp.einsum("gsh,bxyshc->bxygc", alpha, split).reshape(maps[0].shape)


class LayerMixture(Layer):
    """β of one task: the maps of its four stages, weighted and summed on the grid of the last."""

    last: float  # the initial β of the last stage; the others have equal parts of the rest

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Mix maps into one of the shape of the last, [B, H, W, C]."""
        *earlier, x = maps

        def init(_: jax.Array) -> jax.Array:
            return jnp.full(len(maps), (1 - self.last) / len(earlier)).at[-1].set(self.last)

        beta = self.param("beta", init).astype(self.dtype)
        block = partial(ConvBlock, x.shape[-1], **self.common)
        mixed = beta[-1] * x
        for i, y in enumerate(earlier):
            mixed += beta[i] * block(name=f"project{i + 1}")(shrink(y, (x.shape[1], x.shape[2])), train)
        return mixed


class SluiceNetwork(SoftSharing):
    """A column per task, α between the halves of the maps of all columns, and a mixture β of the layers of each task.

    Differences from the paper: its layers are LSTMs of one width, and β gives the output layer a weighted sum of them.
    Here, layers are the stages of the encoders, of different widths and grids: before the sum, those of the first three
    are shrunk to the grid of the last and brought to its width by a 1×1 convolution with BatchNorm and ReLU. The sum
    replaces the decoder's coarsest map. With DenseNet the last stage's map in the sum is not rectified, while the
    others are; the decoder rectifies the sum.

    Initial values: α is biased to a subspace's own source and β to the last layer, which the paper found best. The 0.9
    of β and equal parts for the others are from the authors' code; the 0.9 of α is its value without subspaces (with
    two it has 0.95 and 0.05, in another pattern).

    The penalty that keeps subspaces orthogonal is left out: its default weight in the authors' code is 0.

    Attributes:
        subspaces: the number of equal parts that the channels of a map are split into; 2 in the paper.
        own: the initial α of a subspace for itself, above 0 and at most 1.
        last: the initial β of the last stage, above 0 and at most 1.
    """

    subspaces: int = 2
    own: float = 0.9
    last: float = 0.9

    @nn.nowrap
    def _check(self) -> None:
        check_whole({"subspaces": self.subspaces})
        check_share("own", self.own)
        check_share("last", self.last)
        super()._check()

    def setup(self) -> None:
        super().setup()
        for task in self.heads:
            setattr(self, f"layers_{task}", LayerMixture(self.last, **self.common))

    @nn.nowrap
    def unit(self, index: int) -> nn.Module:
        """Return α of one task."""
        return Subspaces(index, self.subspaces, self.own, **self.common)

    def finish(self, task: str, maps: Sequence[jax.Array], train: bool) -> Sequence[jax.Array]:
        """Return the maps, the last one replaced by the mixture of those of the stages."""
        return [*maps[:-1], getattr(self, f"layers_{task}")(maps[1:], train)]
