"""Sluice networks (Ruder et al. 2019, "Latent multi-task architecture learning", arXiv:1705.08142)."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.layers import ConvBlock
from mtlflax.models.network import check_whole
from mtlflax.models.soft_sharing import SoftSharing, check_own, shrink


class Subspaces(nn.Module):
    """One task's α: each subspace of its map becomes a linear combination of all subspaces of all tasks' maps.

    A subspace is one of the equal parts of a map's channels. `alpha` is [subspaces, tasks, subspaces]: to and from.

    Attributes:
        index: of the task.
        subspaces: how many parts.
        own: α of a subspace for itself at first; all others have the rest in equal parts.
    """

    index: int
    subspaces: int
    own: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """All tasks' maps, each [B, H, W, C], to the mixed one.

        Raises:
            ValueError: C is no multiple of the number of subspaces.
        """
        tasks, parts, channels = len(maps), self.subspaces, maps[0].shape[-1]
        if channels % parts:
            raise ValueError(f"subspaces is {parts}: the encoder has a map of {channels} channels, no multiple of it")

        def init(_: jax.Array) -> jax.Array:
            each = jnp.arange(parts)
            others = jnp.full((parts, tasks, parts), (1 - self.own) / (tasks * parts - 1))
            return others.at[each, self.index, each].set(self.own)

        alpha = self.param("alpha", init).astype(self.dtype)
        split = jnp.stack([x.reshape(*x.shape[:3], parts, channels // parts) for x in maps], axis=3)
        return jnp.einsum("gsh,bxyshc->bxygc", alpha, split).reshape(maps[0].shape)


class LayerMixture(nn.Module):
    """One task's β: its four stages' maps, weighted and summed on the last one's grid.

    Attributes:
        last: β of the last stage at first; the others have the rest in equal parts.
    """

    last: float
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Maps, the last [B, H, W, C], to one of its shape."""
        *earlier, x = maps

        def init(_: jax.Array) -> jax.Array:
            return jnp.full(len(maps), (1 - self.last) / len(earlier)).at[-1].set(self.last)

        beta = self.param("beta", init).astype(self.dtype)
        block = partial(ConvBlock, x.shape[-1], axis_name=self.axis_name, dtype=self.dtype)
        mixed = beta[-1] * x
        for i, y in enumerate(earlier):
            mixed += beta[i] * block(name=f"project{i + 1}")(shrink(y, (x.shape[1], x.shape[2])), train)
        return mixed


class SluiceNetwork(SoftSharing):
    """A column a task, α between the halves of all columns' maps, and for each task a mixture β of its layers.

    The paper's layers are LSTMs of one width, and β gives the output layer a weighted sum of them. Here layers are the
    encoders' stages, of different widths and grids: before they are summed, those of the first three are shrunk to the
    last one's grid and brought to its width by a 1×1 convolution with BatchNorm and ReLU. The sum takes the place of
    the decoder's coarsest map.

    α starts with a bias to a subspace's own source and β to the last layer, which the paper found best. β's 0.9 and
    what is left for the others are those of the authors' code; α's 0.9 is its value without subspaces (with two it has
    0.95 and 0.05, in another pattern). The penalty that keeps subspaces orthogonal is left out: its weight is 0 by
    default in the authors' code. With DenseNet the last stage's map in β's sum is not rectified, while the others are;
    the decoder does that to the sum.

    Attributes:
        subspaces: into how many equal parts of its channels a map is taken apart; the paper's is 2.
        own: α of a subspace for itself at first, above 0, at most 1.
        last: β of the last stage at first, above 0, at most 1.
    """

    subspaces: int = 2
    own: float = 0.9
    last: float = 0.9

    @nn.nowrap
    def check(self) -> None:
        """Raises ValueError, naming the attribute, for a network that there cannot be."""
        check_whole({"subspaces": self.subspaces})
        check_own(self.own)
        if not 0 < self.last <= 1:
            raise ValueError(f"last is {self.last}: give a share above 0, at most 1")
        super().check()

    def setup(self) -> None:
        """Builds the columns, the α and the β."""
        super().setup()
        for task in self.heads:
            setattr(self, f"layers_{task}", LayerMixture(self.last, self.axis_name, self.dtype))

    @nn.nowrap
    def unit(self, index: int) -> nn.Module:
        """One task's α."""
        return Subspaces(index, self.subspaces, self.own, self.dtype)

    def finish(self, task: str, maps: Sequence[jax.Array], train: bool) -> Sequence[jax.Array]:
        """The maps, and in the place of the last the mixture of the stages'."""
        return [*maps[:-1], getattr(self, f"layers_{task}")(maps[1:], train)]
