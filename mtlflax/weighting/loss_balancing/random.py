"""Random loss weighting."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.vectors import multiplied, precision
from mtlflax.weighting.states import has_weights


@has_weights
class RandomState(NamedTuple):
    """State of `random`."""

    step: jax.Array
    weights: jax.Array


@spec.loss_balancing()
def random(seed: int = 0) -> spec.Transformation:
    """Draw new random weights, which sum to 1, in every step (RLW).

    w(t) = softmax(x),   x_k ~ N(0, 1), drawn from the seed and the number of updates: a resumed run draws the same.

    Source: Lin et al. 2022, "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning";
        LibMTL and nash-mtl alike.
    """

    def init(losses: jax.Array) -> RandomState:
        return RandomState(jnp.zeros((), jnp.int32), jnp.ones(losses.shape, precision(losses)))

    def update(
        cotangents: jax.Array, state: RandomState, losses: Any = None, **_: Any
    ) -> tuple[jax.Array, RandomState]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        weights = jax.nn.softmax(jax.random.normal(key, state.weights.shape, state.weights.dtype))
        return multiplied(cotangents, weights), RandomState(state.step + 1, weights)

    return optax.GradientTransformationExtraArgs(init, update)
