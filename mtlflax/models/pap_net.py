"""PAP-Net, pattern-affinitive propagation (Zhang et al. 2019, arXiv:1906.03525)."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlflax.models.checks import check_share, check_whole
from mtlflax.models.guided import GuidedNetwork
from mtlflax.models.layers import Conv, Layer, scaled_normal


class Affinity(Layer):
    """The similarity of all pairs of pixels of one task's map: a matrix whose rows sum to 1.

    A 1×1 convolution narrows the map; M = softmax(X Xᵀ / √C) over the rows, X [N, C] being the narrowed pixels. The
    division, which keeps the softmax from starting saturated, is our addition.
    """

    width: int  # C, channels of the narrowed map

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, C] to affinities float32 [B, N, N], N = H W."""
        x = Conv(self.width, dtype=self.dtype, kernel_init=scaled_normal(1.0, "in"), name="narrow")(x)
        x = _pixels(x).astype(jnp.promote_types(self.dtype, jnp.float32))
        return nn.softmax(x @ x.swapaxes(1, 2) / math.sqrt(self.width), axis=-1)


class Propagation(Layer):
    """The propagation of one task: across tasks, by mixing their affinities, and within the task, by diffusion.

    M̂ = Σ_t α_t M_t, with α the softmax of a learned vector, equal at first; then, starting with the task's map x,
    `iterations` times h ← β M̂ h + (1 - β) x.
    """

    iterations: int  # of the diffusion, at least 1
    beta: float  # β, the share of the diffused map, above 0 and at most 1

    @nn.compact
    def __call__(self, x: jax.Array, affinities: Sequence[jax.Array]) -> jax.Array:
        """Diffuse the task's map [B, H, W, C], given the affinities of all tasks, each [B, N, N]."""
        alpha = nn.softmax(self.param("alpha", nn.initializers.zeros, (len(affinities),)))
        mixed = sum(a * m for a, m in zip(alpha, affinities, strict=True)).astype(self.dtype)
        pixels = diffused = _pixels(x)
        for _ in range(self.iterations):
            diffused = self.beta * (mixed @ diffused) + (1 - self.beta) * pixels
        return diffused.reshape(x.shape)


def _pixels(x: jax.Array) -> jax.Array:
    """Reshape [B, H, W, C] to [B, H W, C]."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


class PAPNet(GuidedNetwork):
    """A shared encoder, an initial prediction per task, and final ones after propagation by all tasks' affinities.

    Parameters are `encoder/...`, `aggregation/...`, `initial_<task>/block/...` and `affinity_<task>/...`, on which the
    losses of all tasks depend, and `initial_<task>/head/...`, `propagation_<task>/...` and `decoder_<task>/...`, which
    are task-specific. In training, the outputs include `{task}/aux/initial`.

    Memory: affinities are between all pairs of N pixels, N = ⌈H / stride⌉ ⌈W / stride⌉, so memory and time grow with
    the fourth power of the image side: K N² float32 per frame, 2 MB at 128×256 and stride 8 with two tasks, 128 MB at
    512×512. Use `stride` 16 for large images.

    Differences from the paper: it compares several similarity functions, here it is the inner product; it has losses on
    the affinities and propagates at several scales, which is not done here; where maps are aggregated is our decision.
    We could not read its equation of the diffusion: this one, with three iterations, is from a public
    re-implementation. Its β is 0.05, with which hardly anything passes between the tasks: at first, the initial network
    of another task gets less than 1 % as much of a task's gradient as its own; with our β more than 3 % (tested).

    Attributes:
        affinity_channels: channels of the maps whose pixels are compared.
        iterations: of the diffusion, at least 1.
        beta: the share of the diffused map, above 0 and at most 1.
    """

    affinity_channels: int = 64
    iterations: int = 3
    beta: float = 0.5

    @nn.nowrap
    def _check(self) -> None:
        super()._check()
        check_whole({"affinity_channels": self.affinity_channels, "iterations": self.iterations})
        check_share("beta", self.beta)

    def setup(self) -> None:
        super().setup()
        for task in self.heads:
            setattr(self, f"affinity_{task}", Affinity(self.affinity_channels, **self.common))
            setattr(self, f"propagation_{task}", Propagation(self.iterations, self.beta, **self.common))

    def guide(self, initial: Mapping[str, tuple[jax.Array, jax.Array]], train: bool) -> dict[str, jax.Array]:
        """Propagate each task's map by the affinities of all tasks."""
        affinities = [getattr(self, f"affinity_{task}")(x) for task, (x, _) in initial.items()]
        return {task: getattr(self, f"propagation_{task}")(x, affinities) for task, (x, _) in initial.items()}

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Return whether the losses of several tasks depend on that parameter ("affinity_depth/narrow/kernel")."""
        module, _, rest = path.partition("/")
        if module.startswith("initial_"):
            return not rest.startswith("head/")
        return not module.startswith(("propagation_", "decoder_"))
