"""Quadratic programs: non-negative, bounded from below, and over the simplex w_k ≥ 0, Σ_k w_k = 1."""

import jax
import jax.numpy as jnp

from mtlflax.weighting.solvers.newton import dot, minimize, outer


def nonnegative_qp(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """Argmin ½ xᵀQx − cᵀx over x ≥ 0, with Q [K, K] positive semi-definite, and c such that it is bounded below.

    x [K] is 0 where the diagonal of Q is.

    >>> x = nonnegative_qp(jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([6.0, -1.0]))
    >>> [round(float(value), 3) for value in x]
    [3.0, 0.0]
    """
    diagonal = jnp.diagonal(matrix)
    unit = jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1)), 0)
    matrix = matrix * outer(unit, unit)
    vector = vector * unit
    largest = jnp.max(jnp.abs(vector))
    largest = jnp.where(largest > 0, largest, 1)
    vector = vector / largest
    x = minimize(lambda x: (dot(matrix, x) - vector, matrix), vector.shape[0], matrix.dtype, iterations=14)
    return x * unit * largest


def bounded_qp(matrix: jax.Array, bound: jax.Array) -> jax.Array:
    """Argmin ½ vᵀQv over v ≥ u, with Q [K, K] positive semi-definite.

    >>> v = bounded_qp(jnp.array([[1.0, -0.5], [-0.5, 1.0]]), jnp.array([1.0, 0.0]))
    >>> [round(float(value), 3) for value in v]
    [1.0, 0.5]
    """
    return bound + nonnegative_qp(matrix, -dot(matrix, bound))


def min_norm(norms: jax.Array, cosines: jax.Array) -> jax.Array:
    """Argmin ‖Σ_k a_k g_k‖ over the simplex {a ≥ 0, Σ a = 1}.

    As a problem in y_k = a_k‖g_k‖ it is min ½ yᵀCy with rᵀy = 1, r_k ∝ 1/‖g_k‖ and C the cosines. The equation becomes
    a term ½ (rᵀy − 1)², which changes y by a factor only.

    Zero gradients share all the weight; where several a give the minimum, it is one in their middle.

    >>> [round(float(value), 3) for value in min_norm(jnp.array([1.0, 2.0]), jnp.eye(2))]
    [0.8, 0.2]
    """
    positive = norms > 0
    safe = jnp.where(positive, norms, 1)
    ratio = jnp.where(positive, jnp.min(jnp.where(positive, norms, jnp.inf)) / safe, 1)
    weights = ratio * nonnegative_qp(cosines + outer(ratio, ratio), ratio)
    return weights / jnp.sum(weights)


def project(point: jax.Array) -> jax.Array:
    """The nearest point of the simplex to a point [K], exactly.

    It is max(v − θ, 0), where θ is (Σ_{j in S} v_j − 1) / │S│ for S the coordinates that stay positive: of all sets
    {j: v_j ≥ v_k}, the one with the largest such θ (Duchi et al. 2008, lemma 2).

    >>> project(jnp.array([0.5, 2.0, -1.0])).tolist(), project(jnp.zeros(4)).tolist()
    ([0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25])
    """
    # A common shift changes nothing, and what lies 1 below the largest is 0 in any case: sums stay small.
    point = jnp.maximum(point - jnp.max(point), -1)
    above = (point[None, :] >= point[:, None]).astype(point.dtype)
    shift = jnp.max((jnp.sum(above * point[None, :], axis=1) - 1) / jnp.sum(above, axis=1))
    return jnp.maximum(point - shift, 0)
