"""The simplex of task weights: w_k ≥ 0, Σ_k w_k = 1."""

import jax
import jax.numpy as jnp


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
