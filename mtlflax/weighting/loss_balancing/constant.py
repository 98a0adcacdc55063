"""Given weights that never change."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.vectors import multiplied, per_task, precision
from mtlflax.weighting.states import has_weights


@has_weights
class ConstantState(NamedTuple):
    """State of `constant` and `equal`.

    Attributes:
        weights: [K].
    """

    weights: jax.Array


@spec.loss_balancing()
def constant(weights: Sequence[float] | None = None) -> optax.GradientTransformationExtraArgs:
    """Give every task a fixed weight; a one-hot vector trains a single task of several.

    Args:
        weights: a weight for each task; None: 1 each.

    Raises:
        ValueError: from `init`, another number of losses than of weights.

    >>> t = constant((1.0, 2.0))
    >>> weights, _ = t.update(jnp.ones(2), t.init(jnp.zeros(2)), jnp.array([3.0, 5.0]))
    >>> weights.tolist()
    [1.0, 2.0]
    """
    if weights is None:
        return fixed(lambda losses: jnp.ones_like(losses, dtype=precision(losses)))
    given = tuple(float(weight) for weight in weights)
    return fixed(lambda losses: per_task("constant", "weights", given, losses))


def fixed(initial: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformationExtraArgs:
    """Multiply by the weights that `initial(losses)` gave at the start."""

    def init(losses: jax.Array) -> ConstantState:
        return ConstantState(initial(losses))

    def update(
        cotangents: jax.Array, state: ConstantState, losses: jax.Array | None = None, **extra_args: Any
    ) -> tuple[jax.Array, ConstantState]:
        del losses, extra_args
        return multiplied(cotangents, state.weights), state

    return optax.GradientTransformationExtraArgs(init, update)
