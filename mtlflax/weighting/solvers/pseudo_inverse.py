"""The pseudo-inverse of the gradients' cosines, by eigenvectors.

Eigenvalues below 32 K ε times the largest, with ε the precision (7.6e-6 of it at K = 2 in float32), are taken for
rounding of 0 and left out. Lengths play no part: a short gradient counts as long as it is not 0.
"""

import jax
import jax.numpy as jnp

from mtlflax.weighting.solvers.newton import dot


def cutoff(array: jax.Array) -> float:
    """Return the relative size below which numbers of a [K] or [K, K] array may be rounding of 0."""
    return 32 * array.shape[0] * float(jnp.finfo(array.dtype).eps)


def eigen(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return eigenvalues [K], ascending, eigenvectors in columns [K, K], and which eigenvalues are not 0, bool [K]."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors, values > cutoff(matrix) * jnp.maximum(values[-1], 0)


def solve_ones(cosines: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return C⁺ 1 and C C⁺ 1, which is 1 if C has full rank; zeros if 1 is orthogonal to the range of C."""
    values, vectors, kept = eigen(cosines)
    parts = jnp.where(kept, jnp.sum(vectors, axis=0), 0)
    reached = jnp.sum(parts**2) > cosines.shape[0] * cutoff(cosines) ** 2
    parts = jnp.where(reached, parts, 0)
    return dot(vectors, parts / jnp.where(kept, values, 1)), dot(vectors, parts)
