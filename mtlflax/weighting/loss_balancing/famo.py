"""FAMO: weights with which all losses fall at the same relative rate, learned from how they fell."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, spec
from mtlflax.weighting.loss_balancing.vectors import learner, multiplied, per_task, precision, required
from mtlflax.weighting.states import has_weights

_EPSILON = 1e-8


@has_weights
class FamoState(NamedTuple):
    """State of `famo`.

    Attributes:
        step: int32 [], complete updates so far.
        logits: [K], ξ of the last complete update.
        optimizer: of ξ.
        previous_losses: [K], of the last complete update; 0 at the start.
        weights: [K], of the last complete update; 1 at the start.
    """

    step: jax.Array
    logits: jax.Array
    optimizer: Any
    previous_losses: jax.Array
    weights: jax.Array


@spec.loss_balancing(needs=("losses_after",))
def famo(
    gamma: float = 1e-3,
    min_losses: Sequence[float] | None = None,
    learning_rate: float = 0.025,
    optimizer: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Give more weight to the task whose loss falls slowest.

    Formula:
        With z = softmax(ξ) and D_k = L_k − L_k,min + 1e-8,

            w_k = (z_k / D_k) / Σ_j (z_j / D_j),

        and after the network's step, in which the losses of the same batch went from D to D', ξ descends along

            (∂z/∂ξ)ᵀ (log D − log D') + γ ξ.

        `update` takes D' as `losses_after`: from it and the previous losses, which the state keeps, ξ takes the step
        that was due, and the weights of this update follow. In the first update it is not looked at. In a chain ξ is
        learned from the losses as they are, whatever the cotangents.

    References:
        Liu et al. 2023, "FAMO: Fast Adaptive Multitask Optimization", algorithm 1; its official code and LibMTL, whose
        Adam with weight decay γ this is.

    Degenerate inputs:
        A loss below its minimum counts as the minimum, with the largest weight; the official code gives NaN.

    Args:
        gamma: γ; 1e-3 in the official scripts and LibMTL, 0.01 in its stand-alone file and Cityscapes script.
        min_losses: L_min for each task; None: 0, as in the code.
        learning_rate: of Adam, which learns ξ.
        optimizer: in place of Adam.

    Raises:
        ValueError: a negative γ, a learning rate that is not positive; from `init`, another number of minima than of
            tasks; from `update`, no `losses_after`.

    >>> t = famo(gamma=0.0, optimizer=optax.sgd(1.0))
    >>> losses, after = jnp.array([1.0, 2.0]), jnp.array([0.9, 1.9])
    >>> weights, state = t.update(jnp.ones(2), t.init(jnp.zeros(2)), losses, losses_after=jnp.zeros(2))
    >>> [round(float(w), 4) for w in weights]
    [0.6667, 0.3333]
    >>> weights, state = t.update(jnp.ones(2), state, after, losses_after=after)
    >>> [round(float(x), 6) for x in state.logits]
    [-0.013517, 0.013517]
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
        cotangents: jax.Array,
        state: FamoState,
        losses: jax.Array,
        *,
        losses_after: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[jax.Array, FamoState]:
        del extra_args
        dtype = state.weights.dtype
        losses = losses.astype(dtype)
        after = required("famo", "losses_after", losses_after).astype(dtype)

        fall = excess(state.previous_losses) - excess(after)
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
