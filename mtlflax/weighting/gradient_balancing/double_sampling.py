"""What SDMGrad and MoDo share: weights that take stochastic steps towards the shortest combination of the gradients.

Both step along J J'ᵀ w. An unbiased estimate of it needs the gradients J and J' of two independent batches: the product
of one batch's gradients with themselves has their noise on its diagonal. So `update` takes `independent=(J, J')`, two
more pytrees of stacked gradients, beside those that make up the direction. In one batch of training they are the
gradients of two halves, and the direction's those of a third batch (LibMTL), or the mean of the two (MoDo's paper).
Without them, or with the option `independent=False`, the direction's own gradients take the place of both: biased
towards tasks of little noise, and exact if gradients have none.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting.measures import across
from mtlflax.weighting.solvers import dot
from mtlflax.weighting.stacked import Geometry, Predicate, from_gradients


class SimplexState(NamedTuple):
    """State of `sdmgrad` and `modo`."""

    point: jax.Array  # [K], a point of the simplex, from which the next update continues; 1/K at the start


# (J J'ᵀ over a scale, the scale, the point) -> (the point, weights [K])
Move = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def stepping(
    move: Move, *, num_tasks: int, independent: bool, shared: Predicate | None, axis_name: str | None
) -> optax.GradientTransformationExtraArgs:
    """Make a method whose weights take the step `move` along J J'ᵀ, of the `independent` gradients if that is true."""
    samples = 2 if independent else 0

    def direct(
        leaves: list[jax.Array],
        geometry: Geometry,
        losses: jax.Array | None,
        state: SimplexState,
        independent: list[list[jax.Array]] | None = None,
    ) -> tuple[None, jax.Array, SimplexState]:
        if independent is None:
            longest = jnp.max(geometry.norms)
            matrix, scale = geometry.relative.gramian, _product(longest, longest)
        else:
            matrix, scale = _cross(independent[0], independent[1], axis_name)
        point, weights = move(matrix, scale, state.point)
        return None, weights, SimplexState(point)

    def inner(leaves: list[jax.Array], dtype: jnp.dtype) -> SimplexState:
        return SimplexState(jnp.full(num_tasks, 1 / num_tasks, dtype))

    return from_gradients(direct, num_tasks=num_tasks, inner=inner, samples=samples, shared=shared, axis_name=axis_name)


def _cross(first: list[jax.Array], second: list[jax.Array], axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Return J J'ᵀ of two samples of stacked gradients, [K, K], over the product of their largest entries, and that."""

    def scaled(leaves: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
        rows = [leaf.reshape(leaf.shape[0], -1) for leaf in leaves if leaf.size]
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(row)) for row in rows]))
        largest = across(jax.lax.pmax, largest, axis_name)
        return [row / jnp.where(largest > 0, largest, 1) for row in rows], largest

    (rows, largest), (others, largest_other) = scaled(first), scaled(second)
    products = [dot(row, other.T) for row, other in zip(rows, others, strict=True)]
    matrix = across(jax.lax.psum, jnp.sum(jnp.stack(products), axis=0), axis_name)
    return matrix, _product(largest, largest_other)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the product of two positive numbers, finite."""
    return jnp.minimum(a * b, jnp.finfo(a.dtype).max)
