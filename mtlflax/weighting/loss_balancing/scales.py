"""Weights e^±s whose logarithmic scales s are learned by an optimizer of their own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting.loss_balancing.vectors import STEEPEST, learner, multiplied, precision
from mtlflax.weighting.states import has_weights

# The bound on |s|. The best s for a loss L is ± log L, and e^50 is 5e21; a loss of 0 would drive s on forever.
_LARGEST = 50.0


@has_weights
class LearnedState(NamedTuple):
    """State of `uncertainty` and `imtl_l`."""

    scales: jax.Array  # [K], s, as the next update applies it
    optimizer: Any  # of s
    weights: jax.Array


def learned(
    method: str,
    weigh: Callable[[jax.Array], jax.Array],
    slope: Callable[[jax.Array, jax.Array], jax.Array],
    initial: float,
    learning_rate: float,
    optimizer: optax.GradientTransformation | None,
) -> optax.GradientTransformationExtraArgs:
    """Multiply by weights that are a function of learned scales, which start at `initial`.

    `weigh` maps scales to weights, and `slope` (weights, losses) to the slope of the total in the scales. `method` is
    for error messages.
    """
    if not abs(initial) <= _LARGEST:
        raise ValueError(f"{method}: initial must be within ±{_LARGEST:g}, not {initial}")
    rule = learner(method, learning_rate, optimizer)

    def init(losses: jax.Array) -> LearnedState:
        scales = jnp.full(losses.shape, initial, precision(losses))
        weigh(scales)  # raises here if the number of kinds is wrong
        return LearnedState(scales, rule.init(scales), jnp.ones_like(scales))

    def update(
        cotangents: jax.Array, state: LearnedState, losses: jax.Array, **_: Any
    ) -> tuple[jax.Array, LearnedState]:
        weights = weigh(state.scales)
        gradient = jnp.clip(slope(weights, losses.astype(weights.dtype)), -STEEPEST, STEEPEST)
        change, rule_state = rule.update(gradient, state.optimizer, state.scales)
        scales = jnp.clip(optax.apply_updates(state.scales, change), -_LARGEST, _LARGEST)
        return multiplied(cotangents, weights), LearnedState(scales, rule_state, weights)

    return optax.GradientTransformationExtraArgs(init, update)
