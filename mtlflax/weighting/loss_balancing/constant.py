"""Given weights that never change."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.vectors import WeightsState, multiplied, per_task, precision


@spec.loss_balancing()
def constant(weights: Sequence[float] | None = None) -> spec.Transformation:
    """Give every task a fixed weight, 1 by default; a one-hot vector trains a single task of several."""
    given = None if weights is None else tuple(float(weight) for weight in weights)

    def init(losses: jax.Array) -> WeightsState:
        if given is None:
            return WeightsState(jnp.ones_like(losses, dtype=precision(losses)))
        return WeightsState(per_task("constant", "weights", given, losses))

    def update(
        cotangents: jax.Array, state: WeightsState, losses: Any = None, **_: Any
    ) -> tuple[jax.Array, WeightsState]:
        return multiplied(cotangents, state.weights), state

    return optax.GradientTransformationExtraArgs(init, update)
