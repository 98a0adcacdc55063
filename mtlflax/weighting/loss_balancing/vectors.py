"""The vectors [K] that go in and out of a loss weighting: their precision, their number, and whether they are there."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def precision(losses: jax.Array) -> Any:
    """The dtype that is computed and kept in: float32, or float64 where the losses are."""
    return jnp.result_type(jnp.float32, losses)


def multiplied(cotangents: jax.Array, weights: jax.Array) -> jax.Array:
    """What a loss weighting gives: the cotangents times its weights, in the cotangents' own dtype.

    Raises:
        ValueError: they are not of as many tasks.
    """
    if cotangents.shape != weights.shape:
        raise ValueError(f"expected cotangents and losses of one shape [K], got {cotangents.shape} and {weights.shape}")
    return (cotangents * weights).astype(cotangents.dtype)


def per_task(method: str, option: str, values: Sequence[float], losses: jax.Array) -> jax.Array:
    """An option with a value a task, as an array [K].

    Raises:
        ValueError: there are more or fewer values than losses.
    """
    if losses.shape != (len(values),):
        raise ValueError(f"{method}: {len(values)} {option} given for {losses.size} tasks")
    return jnp.array(values, precision(losses))


def required(method: str, name: str, value: T | None) -> T:
    """An argument of `update` that the method cannot do without.

    Raises:
        ValueError: it is not given.
    """
    if value is None:
        raise ValueError(f"{method}: update needs {name}=... (loss_balancing.needs says which method needs what)")
    return value
