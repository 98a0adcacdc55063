"""Lengths of stacked task gradients, the angles between them, and their weighted sum."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtlflax.compiler import barrier
from mtlflax.weighting.solvers import varying_as

# Up to this many tasks, gradients are measured and added up row by row. If they were stacked just before, XLA reads the
# originals and makes no stacked copy. On a CPU, the matrix product of two long rows takes ten times as long as the sums
# (tests/benchmarks/README.md). With more tasks, there are too many pairs to compile a sum for each, and as a stacked
# copy is made to measure them, weighted sums and what `present` clears use it too.
FEW = 4


class Geometry(NamedTuple):
    """The lengths of K task gradients and the angles between them; all that most methods look at.

    Lengths and cosines rather than the Gramian J Jᵀ = (norms normsᵀ) ∘ cosines, whose entries leave the range of
    float32 or lose their digits if the gradients of one task are 1e16 times those of another.
    """

    norms: jax.Array  # [K], ‖g_k‖
    cosines: jax.Array  # [K, K], g_i·g_j / (‖g_i‖‖g_j‖), symmetric, in −1..1; 1 on the diagonal; 0 for a zero gradient

    @property
    def gramian(self) -> jax.Array:
        """[K, K], J Jᵀ."""
        return self.norms[:, None] * self.norms[None, :] * self.cosines

    @property
    def relative(self) -> "Geometry":
        """The same with each length over the largest, for a Gramian in range."""
        longest = jnp.max(self.norms)
        return Geometry(self.norms / jnp.where(longest > 0, longest, 1), self.cosines)

    @property
    def ratios(self) -> jax.Array:
        """[K, K], ‖g_i‖ / ‖g_j‖, at most 1e19 (in float32); 1 on the diagonal; 0 elsewhere where g_j is 0."""
        known = self.norms > 0
        ratios = jnp.where(known[None, :], self.norms[:, None] / jnp.where(known, self.norms, 1)[None, :], 0)
        ratios = jnp.minimum(ratios, jnp.sqrt(jnp.finfo(ratios.dtype).max))
        return jnp.where(jnp.eye(self.norms.size, dtype=bool), 1, ratios)


def across(reduce: Callable[..., Any], x: Any, axis_name: str | None) -> Any:
    """Reduce over the mapped axis on which devices have parts of the coordinates, if there is one."""
    return x if axis_name is None else reduce(x, axis_name)


def geometry(task_grads: Any, axis_name: str | None = None) -> Geometry:
    """Measure stacked gradients, a pytree of [K, ...], over all devices' coordinates, in float32 or better."""
    leaves = jax.tree.leaves(task_grads)
    dtype = jnp.result_type(jnp.float32, *leaves)
    num_tasks = leaves[0].shape[0]
    leaves = [leaf.astype(dtype) for leaf in leaves if leaf.size]

    # Squares of numbers far from 1 leave the range of float32: each row is scaled first.
    largest = jnp.zeros(num_tasks, dtype)
    for leaf in leaves:
        largest = jnp.maximum(largest, _largest(leaf))
    largest = across(jax.lax.pmax, largest, axis_name)
    scale = _power_of_two(largest)
    products = jnp.zeros((num_tasks, num_tasks), dtype)
    for leaf in leaves:
        products = _add_products(products, leaf, 1 / scale)
    products = across(jax.lax.psum, products, axis_name)

    lengths = jnp.sqrt(jnp.diagonal(products))
    unit = jnp.where(lengths > 0, lengths, 1)
    cosines = jnp.clip(products / unit[:, None] / unit[None, :], -1, 1)
    own = (lengths > 0).astype(dtype)
    cosines = jnp.where(jnp.eye(num_tasks, dtype=bool), own[:, None], cosines)
    return Geometry(norms=lengths * scale, cosines=cosines)


def _largest(leaf: jax.Array) -> jax.Array:
    """The largest absolute value of each row, [K, ...] -> [K]."""
    if len(leaf) > FEW:
        return jnp.max(jnp.abs(leaf), axis=tuple(range(1, leaf.ndim)))
    return jnp.stack([jnp.max(jnp.abs(row)) for row in leaf])


def _power_of_two(largest: jax.Array) -> jax.Array:
    """The next power of 2 above each number (1 for 0), within limits: its inverse is finite. Scaling by it is exact."""
    limit = jnp.finfo(largest.dtype).maxexp - 8
    exponent = jnp.clip(jnp.frexp(jnp.where(largest > 0, largest, 1))[1], -limit, limit)
    return jnp.ldexp(jnp.ones((), largest.dtype), exponent)


def _add_products(sums: jax.Array, leaf: jax.Array, factors: jax.Array) -> jax.Array:
    """Add the inner products of all pairs of rows, row k times factor k: [K, K], [K, ...] and [K] -> [K, K]."""
    if len(leaf) > FEW:
        scaled = leaf.reshape(len(leaf), -1) * factors[:, None]
        return sums + jnp.matmul(scaled, scaled.T, precision=jax.lax.Precision.HIGHEST)
    # The barrier makes XLA take one leaf after the other: otherwise scaled copies of all of them exist at once.
    rows, sums = barrier([varying_as(row, sums) for row in leaf], varying_as(sums, leaf))
    rows = [factor * row for factor, row in zip(factors, rows, strict=True)]
    pairs = {(i, j): jnp.sum(rows[i] * rows[j]) for j in range(len(rows)) for i in range(j + 1)}
    matrix = [jnp.stack([pairs[min(i, j), max(i, j)] for j in range(len(rows))]) for i in range(len(rows))]
    return sums + jnp.stack(matrix)


def norms(leaves: Iterable[jax.Array], axis_name: str | None = None) -> jax.Array:
    """Return the lengths [K] of K task gradients, given as leaves [K, ...]; `axis_name` as in `geometry`."""
    leaves = list(leaves)
    dtype = jnp.result_type(jnp.float32, *leaves)
    lengths = []
    for rows in zip(*leaves, strict=True):
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(row), initial=0).astype(dtype) for row in rows]))
        largest = across(jax.lax.pmax, largest, axis_name)
        scale = _power_of_two(largest)
        square = sum(jnp.sum(jnp.square(row.astype(dtype) / scale)) for row in rows)
        lengths.append(jnp.sqrt(across(jax.lax.psum, square, axis_name)) * scale)
    return jnp.stack(lengths)


def combine(weights: jax.Array, leaves: list[jax.Array]) -> list[jax.Array]:
    """Return Σ_k w_k g_k of every leaf [K, ...], in the precision of the weights."""
    leaves = [leaf.astype(weights.dtype) for leaf in leaves]
    if len(weights) > FEW:
        return [jnp.tensordot(weights, leaf, axes=1, precision=jax.lax.Precision.HIGHEST) for leaf in leaves]
    return [sum(weight * row for weight, row in zip(weights, leaf, strict=True)) for leaf in leaves]
