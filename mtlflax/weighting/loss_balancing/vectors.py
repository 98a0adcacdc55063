"""The vectors [K] that a loss weighting takes and gives, and the optimizer of what it learns."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options
from mtlflax.weighting.states import has_weights

# The bound on slopes, whose squares must fit into float32 for Adam.
STEEPEST = 1e18


@has_weights
class WeightsState(NamedTuple):
    """State of a method that keeps its weights alone."""

    weights: jax.Array


def precision(losses: jax.Array) -> Any:
    """Return the dtype to compute and keep in: float32, or float64 if the losses are."""
    return jnp.result_type(jnp.float32, losses)


def multiplied(cotangents: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the cotangents times the weights, in the cotangents' own dtype; ValueError if their shapes differ."""
    if cotangents.shape != weights.shape:
        raise ValueError(f"expected cotangents and losses of one shape [K], got {cotangents.shape} and {weights.shape}")
    return (cotangents * weights).astype(cotangents.dtype)


def per_task(method: str, option: str, values: Sequence[float], losses: jax.Array) -> jax.Array:
    """Return an option that has a value per task as an array [K]; ValueError for another number of values."""
    if losses.shape != (len(values),):
        raise ValueError(f"{method}: {len(values)} {option} given for {losses.size} tasks")
    return jnp.array(values, precision(losses))


def learner(
    method: str, learning_rate: float, optimizer: optax.GradientTransformation | None
) -> optax.GradientTransformation:
    """Return the optimizer of what a method learns: the one given, or Adam."""
    options.positive(method, learning_rate=learning_rate)
    return optax.adam(learning_rate) if optimizer is None else optimizer
