"""Weights that never change."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting.loss_balancing.vectors import multiplied, per_task, precision
from mtlflax.weighting.states import has_weights


@has_weights
class StaticState(NamedTuple):
    """State of `equal` and `constant`.

    Attributes:
        weights: [K].
    """

    weights: jax.Array


def equal() -> optax.GradientTransformationExtraArgs:
    """Every weight is 1: the plain sum of the losses.

    >>> t = equal()
    >>> weights, _ = t.update(jnp.ones(2), t.init(jnp.zeros(2)), jnp.array([3.0, 5.0]))
    >>> weights.tolist()
    [1.0, 1.0]
    """
    return _static(lambda losses: jnp.ones_like(losses, dtype=precision(losses)))


def constant(weights: Sequence[float]) -> optax.GradientTransformationExtraArgs:
    """The given weights, K of them; a one-hot vector trains a single task of several.

    Raises:
        ValueError: from `init`, where the number of losses is another than that of weights.

    >>> t = constant((1.0, 2.0))
    >>> weights, _ = t.update(jnp.ones(2), t.init(jnp.zeros(2)), jnp.array([3.0, 5.0]))
    >>> weights.tolist()
    [1.0, 2.0]
    """
    given = tuple(float(weight) for weight in weights)
    return _static(lambda losses: per_task("constant", "weights", given, losses))


def _static(initial: Any) -> optax.GradientTransformationExtraArgs:
    """A transform that multiplies by the weights that `initial(losses)` gave at the start."""

    def init(losses: jax.Array) -> StaticState:
        return StaticState(initial(losses))

    def update(
        cotangents: jax.Array,
        state: StaticState,
        losses: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[jax.Array, StaticState]:
        del losses, extra_args
        return multiplied(cotangents, state.weights), state

    return optax.GradientTransformationExtraArgs(init, update)
