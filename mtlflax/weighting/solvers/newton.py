"""Newton steps that stay where the variables are positive: the linear system, the step's length, and a minimizer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# x [n] -> gradient [n], Hessian [n, n]
Derivatives = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

# Steps go at most this part of the way to where a variable becomes 0.
FRACTION = 0.9


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of matrices or vectors, in their own precision on any device."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def varying_as(constant: jax.Array, data: jax.Array) -> jax.Array:
    """Return the constant, marked as varying over the devices if the data do.

    Where shard_map checks which values vary, what a loop starts from must vary if its later values do, and what passes
    a barrier together must vary alike. So this makes the constant depend on the data, but in form only: the compiler
    reduces it to the constant.
    """
    return jnp.where(False, jnp.ravel(data)[0].astype(constant.dtype), constant)


def outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """[n, n], a bᵀ."""
    return a[:, None] * b[None, :]


def solve(matrix: jax.Array, columns: jax.Array) -> jax.Array:
    """X [n, m] with matrix X = columns, for a positive semi-definite matrix [n, n].

    Gauss-Jordan elimination, of the matrix brought to a unit diagonal: for matrices this small it is a handful of
    fused operations, where a library's factorization is a call. A little is added to the diagonal, so that null
    directions stay finite. The callers are Newton steps, which this slows a little and does not lead astray.
    """
    eps = jnp.finfo(matrix.dtype).eps
    size = matrix.shape[0]
    scale = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(matrix), eps**4))
    identity = jnp.eye(size, dtype=matrix.dtype)
    rows = jnp.concatenate([matrix * outer(scale, scale) + 8 * eps * identity, columns * scale[:, None]], axis=1)

    def eliminate(k: jax.Array, rows: jax.Array) -> jax.Array:
        pivot = rows[k] / jnp.maximum(rows[k, k], eps)
        return rows - outer(rows[:, k] - identity[k], pivot)

    rows = jax.lax.fori_loop(0, size, eliminate, rows)
    return rows[:, size:] * scale[:, None]


def reach(x: jax.Array, step: jax.Array) -> jax.Array:
    """The largest t with x + t·step ≥ 0, for x > 0; at most 1e9."""
    return 1 / jnp.maximum(jnp.max(-step / x), 1e-9)


def minimize(
    derivatives: Derivatives,
    size: int,
    dtype: Any,
    *,
    iterations: int,
    improve: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """Argmin f(x) over x ≥ 0, for a convex f whose variables are all of order 1.

    Primal-dual path following: Newton's method on ∇f(x) = s, x∘s = σμ, with x, s > 0 from 1, μ the mean of x∘s, and σ
    from how far the step with σ = 0 gets. It needs no strict convexity, and where the minimizer is not unique it goes
    to the middle of the minimizers. Three semismooth Newton steps on min(x, ∇f(x)) = 0 follow, which solve on the
    support that has been found; of the iterates that with the smallest residual is taken.

    Args:
        derivatives: the gradient and the Hessian of f.
        size: n.
        dtype: of x.
        iterations: Newton steps; μ falls by ten in a step, by more towards the end.
        improve: x → x with no larger f, applied after each of them.
    """
    tiny = jnp.finfo(dtype).eps ** 2

    def follow(_: int, pair: jax.Array) -> jax.Array:
        x, s = pair
        gradient, hessian = derivatives(x)
        directions = solve(hessian + jnp.diag(s / x), jnp.stack([-gradient, 1 / x], axis=1))

        def step(target: jax.Array | float) -> jax.Array:
            dx = directions[:, 0] + target * directions[:, 1]
            return jnp.stack([dx, (target - s * dx) / x - s])

        def gap(pair: jax.Array) -> jax.Array:
            return jnp.mean(pair[0] * pair[1])

        greedy = step(0.0)
        ahead = gap(pair + jnp.minimum(1, reach(pair, greedy)) * greedy)
        taken = step(jnp.clip(ahead / gap(pair), 0, 1) ** 2 * gap(pair))
        x, s = jnp.maximum(pair + jnp.minimum(1, FRACTION * reach(pair, taken)) * taken, tiny)
        return jnp.stack([improve(x), s])

    start = jnp.ones((2, size), dtype)
    start = varying_as(start, derivatives(start[0])[0])
    x, s = jax.lax.fori_loop(0, iterations, follow, start)

    def residual(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(jnp.minimum(x, gradient)))

    def polish(_: int, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, support, best, least = carry
        x = jnp.where(support, x, 0)
        gradient, hessian = derivatives(x)
        hessian = jnp.where(support[:, None] & support[None, :], hessian, jnp.eye(size, dtype=dtype))
        x -= solve(hessian, jnp.where(support, gradient, 0)[:, None])[:, 0]
        gradient = derivatives(x)[0]
        error = residual(x, gradient)
        better = error <= least
        return x, x > gradient, jnp.where(better, x, best), jnp.where(better, error, least)

    polished = jax.lax.fori_loop(0, 3, polish, (x, x > s, x, residual(x, derivatives(x)[0])))[2]
    return jnp.maximum(polished, 0)
