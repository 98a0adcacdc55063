"""Weights that are functions of the logarithms of the current losses, so that the scale of a loss does not matter."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting.loss_balancing.vectors import WeightsState, multiplied, precision


def stateless(weigh: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformationExtraArgs:
    """Multiply by weights that are a function of the current losses."""

    def init(losses: jax.Array) -> WeightsState:
        return WeightsState(jnp.ones(losses.shape, precision(losses)))

    def update(
        cotangents: jax.Array, state: WeightsState, losses: jax.Array, **_: Any
    ) -> tuple[jax.Array, WeightsState]:
        weights = weigh(losses.astype(state.weights.dtype))
        return multiplied(cotangents, weights), WeightsState(weights)

    return optax.GradientTransformationExtraArgs(init, update)


def logs(losses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return which losses are positive, and their logarithms, 0 for the others."""
    positive = losses > 0
    return positive, jnp.log(jnp.where(positive, losses, 1))


def reciprocal(losses: jax.Array) -> jax.Array:
    """Return 1 / L, and 0 for losses that are not positive."""
    positive = losses > 0
    return finite(positive, 1 / jnp.where(positive, losses, 1))


def finite(positive: jax.Array, weights: jax.Array) -> jax.Array:
    """Return weights, 0 if the loss is not positive, and finite, which losses below 1e-38 would not make them."""
    return jnp.where(positive, jnp.minimum(weights, jnp.finfo(weights.dtype).max), 0)
