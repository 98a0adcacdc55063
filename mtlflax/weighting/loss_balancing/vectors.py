"""The vectors [K] that a loss weighting takes and gives, and the optimizer of what it learns."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options

T = TypeVar("T")


def precision(losses: jax.Array) -> Any:
    """Return the dtype to compute and keep in: float32, or float64 if the losses are."""
    return jnp.result_type(jnp.float32, losses)


def multiplied(cotangents: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the cotangents times the weights, in the cotangents' own dtype.

    Raises:
        ValueError: they are not of equally many tasks.
    """
    if cotangents.shape != weights.shape:
        raise ValueError(f"expected cotangents and losses of one shape [K], got {cotangents.shape} and {weights.shape}")
    return (cotangents * weights).astype(cotangents.dtype)


def per_task(method: str, option: str, values: Sequence[float], losses: jax.Array) -> jax.Array:
    """Return an option that has a value per task as an array [K].

    Raises:
        ValueError: there are more or fewer values than losses.
    """
    if losses.shape != (len(values),):
        raise ValueError(f"{method}: {len(values)} {option} given for {losses.size} tasks")
    return jnp.array(values, precision(losses))


def required(method: str, name: str, value: T | None) -> T:
    """Return an argument of `update` that the method cannot do without.

    Raises:
        ValueError: it is not given.
    """
    if value is None:
        raise ValueError(f"{method}: update needs {name}=... (its spec.needs says so)")
    return value


def learner(
    method: str, learning_rate: float, optimizer: optax.GradientTransformation | None
) -> optax.GradientTransformation:
    """Return the optimizer of what a method learns: the one given, or Adam."""
    options.positive(method, learning_rate=learning_rate)
    return optax.adam(learning_rate) if optimizer is None else optimizer
