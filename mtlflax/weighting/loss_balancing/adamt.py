"""The adaptive weights of AdaMT-Net."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.vectors import WeightsState, multiplied, precision


@spec.loss_balancing(needs=("gradient_norms",), norms_of="own")
def adamt() -> spec.Transformation:
    """Weigh tasks in proportion to their gradient norms.

    w_k = ‖∇θ_k L_k‖ / Σ_j ‖∇θ_j L_j‖, with θ_k the parameters of task k's own decoder.

    Source: Jha et al. 2020, "AdaMT-Net: An Adaptive Weight Learning Based Multi-Task Learning Model For Scene
        Understanding". This is one reading of the paper's "gradient weighting".
    Differences: there is no official code; re-implementations take the last layers of each decoder, average or
        normalize gradients there, or put a softmax over the result.
    Degenerate inputs: if all norms are zero, all weights are 1/K.
    """

    def init(losses: jax.Array) -> WeightsState:
        return WeightsState(jnp.ones(losses.shape, precision(losses)))

    def update(
        cotangents: jax.Array, state: WeightsState, losses: Any = None, *, gradient_norms: jax.Array, **_: Any
    ) -> tuple[jax.Array, WeightsState]:
        norms = gradient_norms.astype(state.weights.dtype)
        largest = jnp.max(norms)
        scaled = jnp.where(largest > 0, norms / jnp.where(largest > 0, largest, 1), 1)  # a sum in range
        weights = scaled / jnp.sum(scaled)
        return multiplied(cotangents, weights), WeightsState(weights)

    return optax.GradientTransformationExtraArgs(init, update)
