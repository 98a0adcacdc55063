"""FAMO: weights with which all losses fall at the same relative rate, learned from how they fell."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, spec
from mtlflax.weighting.loss_balancing.vectors import learner, multiplied, per_task, precision
from mtlflax.weighting.states import has_weights

_EPSILON = 1e-8


@has_weights
class FamoState(NamedTuple):
    """State of `famo`."""

    step: jax.Array
    logits: jax.Array  # [K], ξ of the last complete update
    optimizer: Any  # of ξ
    previous_losses: jax.Array  # [K], of the last complete update; 0 at the start
    weights: jax.Array


@spec.loss_balancing(needs=("losses_after",))
def famo(
    gamma: float = 1e-3,
    min_losses: Sequence[float] | None = None,
    learning_rate: float = 0.025,
    optimizer: optax.GradientTransformation | None = None,
) -> spec.Transformation:
    """Give more weight to the task whose loss falls slowest.

    With z = softmax(ξ) and D_k = L_k − L_k,min + 1e-8,

        w_k = (z_k / D_k) / Σ_j (z_j / D_j),

    and after the network's step, in which the losses of the same batch went from D to D', ξ descends along

        (∂z/∂ξ)ᵀ (log D − log D') + γ ξ.

    `update` takes D' as `losses_after`: from it and the previous losses, which the state keeps, ξ takes the step that
    was due, and the weights of this update follow. In the first update it is not looked at. In a chain ξ is learned
    from the losses as they are, whatever the cotangents.

    Source: Liu et al. 2023, "FAMO: Fast Adaptive Multitask Optimization", algorithm 1; its official code and LibMTL,
        whose Adam with weight decay γ this is.
    Degenerate inputs: a loss below its minimum counts as the minimum, with the largest weight; the official code: NaN.

    Args:
        gamma: γ; 1e-3 in the official scripts and LibMTL, 0.01 in its stand-alone file and Cityscapes script.
        min_losses: L_min for each task; None: 0, as in the code.
        learning_rate: of ξ.
        optimizer: of ξ.
    """
    options.not_negative("famo", gamma=gamma)
    rule = learner("famo", learning_rate, optimizer)

    def excess(losses: jax.Array) -> jax.Array:
        """Log D."""
        least = 0.0 if min_losses is None else per_task("famo", "min_losses", min_losses, losses)
        return jnp.log(jnp.maximum(losses - least, 0) + _EPSILON)

    def init(losses: jax.Array) -> FamoState:
        dtype = precision(losses)
        logits, previous = (jnp.zeros(losses.shape, dtype) for _ in range(2))
        excess(previous)  # raises here if the number of minima is wrong
        return FamoState(jnp.zeros((), jnp.int32), logits, rule.init(logits), previous, jnp.ones(losses.shape, dtype))

    def update(
        cotangents: jax.Array, state: FamoState, losses: jax.Array, *, losses_after: jax.Array, **_: Any
    ) -> tuple[jax.Array, FamoState]:
        losses = losses.astype(state.weights.dtype)
        fall = excess(state.previous_losses) - excess(losses_after.astype(state.weights.dtype))
        z = jax.nn.softmax(state.logits)
        slope = z * (fall - jnp.sum(z * fall)) + gamma * state.logits
        change, rule_state = rule.update(slope, state.optimizer, state.logits)
        stepped = (optax.apply_updates(state.logits, change), rule_state)
        logits, rule_state = jax.tree.map(
            lambda new, old: jnp.where(state.step == 0, old, new), stepped, (state.logits, state.optimizer)
        )

        weights = jax.nn.softmax(jax.nn.log_softmax(logits) - excess(losses))
        return multiplied(cotangents, weights), FamoState(state.step + 1, logits, rule_state, losses, weights)

    return optax.GradientTransformationExtraArgs(init, update)
