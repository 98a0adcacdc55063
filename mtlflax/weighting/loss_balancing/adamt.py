"""The adaptive weights of AdaMT-Net."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.vectors import multiplied, precision, required
from mtlflax.weighting.states import has_weights


@has_weights
class AdamtState(NamedTuple):
    """State of `adamt`.

    Attributes:
        weights: [K], of the last complete update; 1 at the start.
    """

    weights: jax.Array


@spec.loss_balancing(needs=("gradient_norms",), norms_of="own")
def adamt() -> optax.GradientTransformationExtraArgs:
    """Weigh tasks in proportion to their gradient norms.

    Formula:
        w_k = ‖∇θ_k L_k‖ / Σ_j ‖∇θ_j L_j‖

        with θ_k the parameters of task k's own decoder.

    References:
        Jha et al. 2020, "AdaMT-Net: An Adaptive Weight Learning Based Multi-Task Learning Model For Scene
        Understanding". This is one reading of the paper's "gradient weighting".

    Differences from other implementations:
        There is no official code; re-implementations take the last layers of each decoder, average or normalize
        gradients there, or put a softmax over the result.

    Degenerate inputs:
        If all norms are zero, all weights are 1/K.

    Raises:
        ValueError: from `update`, no `gradient_norms`.

    >>> t = adamt()
    >>> norms = jnp.array([3.0, 1.0])
    >>> weights, _ = t.update(jnp.ones(2), t.init(jnp.zeros(2)), jnp.ones(2), gradient_norms=norms)
    >>> weights.tolist()
    [0.75, 0.25]
    """

    def init(losses: jax.Array) -> AdamtState:
        return AdamtState(jnp.ones(losses.shape, precision(losses)))

    def update(
        cotangents: jax.Array,
        state: AdamtState,
        losses: jax.Array | None = None,
        *,
        gradient_norms: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[jax.Array, AdamtState]:
        del losses, extra_args
        norms = required("adamt", "gradient_norms", gradient_norms).astype(state.weights.dtype)
        largest = jnp.max(norms)
        scaled = jnp.where(largest > 0, norms / jnp.where(largest > 0, largest, 1), 1)  # a sum in range
        weights = scaled / jnp.sum(scaled)
        return multiplied(cotangents, weights), AdamtState(weights)

    return optax.GradientTransformationExtraArgs(init, update)
