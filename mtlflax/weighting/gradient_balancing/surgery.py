"""Gradient surgery: what PCGrad and GradVac share.

A corrected gradient stays a combination of the original ones, so its coefficients and the angles between the originals
are all that is kept. Coefficients are those of *unit* gradients, which keeps them well conditioned for tasks of any
scale.
"""

import jax
import jax.numpy as jnp

from mtlflax.weighting.stacked import Geometry


def orders(seed: int, step: jax.Array, num_tasks: int) -> jax.Array:
    """Return [turn, K], the task by which each is corrected in a turn: a random order for each, itself included."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    draws = jax.random.uniform(key, (num_tasks, num_tasks), jnp.float32)
    return jnp.argsort(draws, axis=1).T


def weights(coefficients: jax.Array, geometry: Geometry) -> jax.Array:
    """Return the weights [K], given the coefficients [K, K] of each corrected g_i / ‖g_i‖ in unit gradients."""
    return jnp.sum(coefficients * geometry.ratios, axis=0)
