"""PAP-Net, pattern-affinitive propagation (Zhang et al. 2019, arXiv:1906.03525)."""

import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.encoders import encoder
from mtlflax.models.layers import Conv, resize, scaled_normal
from mtlflax.models.network import Network, check_whole
from mtlflax.models.pad_net import Aggregation, Initial, Reconstruction, check_guided, coarse


class Affinity(nn.Module):
    """How alike the pixels of one task's map are to each other: a matrix whose rows sum to 1.

    A 1×1 convolution narrows the map; M = softmax(X Xᵀ / √C) over the rows, X [N, C] being the narrowed pixels. The
    division, which keeps the softmax from starting saturated, is ours.

    Attributes:
        width: C, channels of the narrowed map.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to affinities float32 [B, N, N], N = H W."""
        x = Conv(self.width, dtype=self.dtype, kernel_init=scaled_normal(1.0, "in"), name="narrow")(x)
        x = _pixels(x).astype(jnp.promote_types(self.dtype, jnp.float32))
        return nn.softmax(x @ x.swapaxes(1, 2) / math.sqrt(self.width), axis=-1)


class Propagation(nn.Module):
    """One task's propagation: across tasks, by mixing their affinities, and within the task, by diffusion.

    M̂ = Σ_t α_t M_t, α the softmax of a learnt vector, equal at first; then, from the task's map x on, `iterations`
    times h ← β M̂ h + (1 - β) x: near pixels count more than what has come a long way.

    Attributes:
        iterations: of the diffusion, from 1 on.
        beta: β, the share of what is diffused, above 0, at most 1.
    """

    iterations: int
    beta: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, affinities: Sequence[jax.Array]) -> jax.Array:
        """The task's map [B, H, W, C] and all tasks' affinities, each [B, N, N], to [B, H, W, C]."""
        alpha = nn.softmax(self.param("alpha", nn.initializers.zeros, (len(affinities),)))
        mixed = sum(a * m for a, m in zip(alpha, affinities, strict=True)).astype(self.dtype)
        pixels = diffused = _pixels(x)
        for _ in range(self.iterations):
            diffused = self.beta * (mixed @ diffused) + (1 - self.beta) * pixels
        return diffused.reshape(x.shape)


def _pixels(x: jax.Array) -> jax.Array:
    """[B, H, W, C] → [B, H W, C]."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


class PAPNet(Network):
    """A shared encoder, for each task a network with an initial prediction, and propagation by all tasks' affinities.

    Parameters are `encoder/...`, `aggregation/...`, `initial_<task>/block/...` and `affinity_<task>/...`, on which all
    tasks' losses depend, and `initial_<task>/head/...`, `propagation_<task>/...` and `decoder_<task>/...`, which serve
    one. In training the outputs hold `{task}/aux/initial` too.

    Affinities are between all pairs of N pixels, N = ⌈H / stride⌉ ⌈W / stride⌉, so memory and time grow with the fourth
    power of the image's side: K N² float32 a frame, 2 MB at 128×256 and stride 8 with two tasks, 128 MB at 512×512.
    Take `stride` 16 for large images.

    The paper compares functions of similarity; ours is the inner product. It adds losses on the affinities, of pairs of
    pixels, and propagates at several scales: neither is done here. Where maps are brought together is ours too. We
    could not read its equation of the diffusion: this one is a public re-implementation's, with three iterations. Its β
    is 0.05, with which hardly anything passes between the tasks: at first another task's initial network gets less than
    1 % as much of a task's gradient as its own. With ours it gets more than 3 % (`test_guided.py` measures both).

    Attributes:
        stride: 4, 8 or 16: that of the initial predictions and of the affinities.
        width: channels of the maps there.
        affinity_channels: of the maps between whose pixels affinities are.
        iterations: of the diffusion.
        beta: the share of what is diffused, above 0, at most 1.
    """

    stride: int = 8
    width: int = 256
    affinity_channels: int = 64
    iterations: int = 3
    beta: float = 0.5

    fewest: ClassVar[int] = 2

    @nn.nowrap
    def check(self) -> None:
        """Raises ValueError, naming the attribute, for a network that there cannot be."""
        check_guided(self)
        check_whole({"affinity_channels": self.affinity_channels, "iterations": self.iterations})
        if not 0 < self.beta <= 1:
            raise ValueError(f"beta is {self.beta}: give a share above 0, at most 1")

    def setup(self) -> None:
        """Builds the encoder and what stands behind it."""
        decoder = nn.remat(Reconstruction, static_argnums=(2, 3)) if self.remat else Reconstruction
        self.encoder = encoder(self.backbone, remat=self.remat, **self.common)
        self.aggregation = Aggregation(self.width, coarse(self.encoder.activated, self.stride), **self.common)
        for task, channels in self.heads.items():
            setattr(self, f"initial_{task}", Initial(channels, self.width, **self.common))
            setattr(self, f"affinity_{task}", Affinity(self.affinity_channels, self.dtype))
            setattr(self, f"propagation_{task}", Propagation(self.iterations, self.beta, self.dtype))
            setattr(self, f"decoder_{task}", decoder(channels, **self.common))

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Images [B, H, W, 3], normalised, to logits: task → float32 [B, H, W, channels], and in training the initial.

        The latter are `{task}/aux/initial`, of the same shape.
        """
        size = (images.shape[1], images.shape[2])
        x = self.aggregation(coarse(self.encoder(images, train), self.stride), train)
        initial = {task: getattr(self, f"initial_{task}")(x, train) for task in self.heads}
        affinities = [getattr(self, f"affinity_{task}")(y) for task, (y, _) in initial.items()]
        outputs = {}
        for task, (y, _) in initial.items():
            propagated = getattr(self, f"propagation_{task}")(y, affinities)
            outputs[task] = getattr(self, f"decoder_{task}")(propagated, size, train)
        if train:
            outputs |= {f"{task}/aux/initial": resize(logits, size) for task, (_, logits) in initial.items()}
        return outputs

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Whether more than one task's loss depends on the parameter at that path ("affinity_depth/narrow/kernel")."""
        module, _, rest = path.partition("/")
        if module.startswith("initial_"):
            return not rest.startswith("head/")
        return not module.startswith(("propagation_", "decoder_"))
