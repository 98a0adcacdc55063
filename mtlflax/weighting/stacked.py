"""Stacked task gradients, pytrees whose leaves lead with a task axis K: measured, combined, told apart.

What every gradient balancing shares. A method is a function of the gradients' `Geometry` (`from_geometry`) or of the
gradients themselves (`from_gradients`); which parameters it acts on, in what precision, and across which devices is
settled here, once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options
from mtlflax.weighting.states import has_weights


class Geometry(NamedTuple):
    """Lengths of K task gradients and the angles between them; all that most methods look at.

    Lengths and cosines rather than the Gramian J Jᵀ = (norms normsᵀ) ∘ cosines, whose entries leave float32's range or
    lose their digits where one task's gradients are 1e16 times another's.

    Attributes:
        norms: [K], ‖g_k‖.
        cosines: [K, K], g_i·g_j / (‖g_i‖‖g_j‖), symmetric, in −1..1; 1 on the diagonal; 0 for a zero gradient.
    """

    norms: jax.Array
    cosines: jax.Array

    @property
    def gramian(self) -> jax.Array:
        """[K, K], J Jᵀ."""
        return self.norms[:, None] * self.norms[None, :] * self.cosines

    @property
    def ratios(self) -> jax.Array:
        """[K, K], ‖g_i‖ / ‖g_j‖, at most 1e19 (in float32); 1 on the diagonal; 0 elsewhere where g_j is 0."""
        known = self.norms > 0
        ratios = jnp.where(known[None, :], self.norms[:, None] / jnp.where(known, self.norms, 1)[None, :], 0)
        ratios = jnp.minimum(ratios, jnp.sqrt(jnp.finfo(ratios.dtype).max))
        return jnp.where(jnp.eye(self.norms.size, dtype=bool), 1, ratios)


@has_weights
class BalancingState(NamedTuple):
    """State of a gradient balancing whose direction is a weighted sum of gradients.

    Attributes:
        inner: the method's own, a pytree of arrays; () where it has none.
        weights: [K], those of the last update; 1 at the start.
        geometry: of the last update's task gradients; zeros at the start.
    """

    inner: Any
    weights: jax.Array
    geometry: Geometry


class UnweightedState(NamedTuple):
    """State of a gradient balancing that has no weights, since it chooses for each coordinate.

    Attributes:
        inner: the method's own, a pytree of arrays.
        geometry: of the last update's task gradients; zeros at the start.
    """

    inner: Any
    geometry: Geometry


# (geometry, losses, inner) -> (weights [K], inner)
Weigh = Callable[[Geometry, jax.Array | None, Any], tuple[jax.Array, Any]]
# (leaves [K, ...], geometry, losses, inner) -> (leaves [...], weights [K] or None, inner); one that takes independent
# samples is given them as `independent`, a list of leaves each, or None
Direct = Callable[..., tuple[list[jax.Array], jax.Array | None, Any]]


def geometry(task_grads: Any, axis_name: str | None = None) -> Geometry:
    """Measures stacked gradients; every leaf is [K, ...], the sums are taken in float32 or better.

    Args:
        task_grads: a pytree with at least one leaf.
        axis_name: a mapped axis over which each device has its own part of the coordinates; the result is of all.
    """
    leaves = jax.tree.leaves(task_grads)
    dtype = jnp.result_type(jnp.float32, *leaves)
    rows = [leaf.reshape(leaf.shape[0], -1).astype(dtype) for leaf in leaves if leaf.size]
    num_tasks = leaves[0].shape[0]

    # Squares of what is far from 1 leave float32's range: each row is brought to at most 1 first.
    largest = jnp.zeros(num_tasks, dtype)
    for row in rows:
        largest = jnp.maximum(largest, jnp.max(jnp.abs(row), axis=1))
    if axis_name is not None:
        largest = jax.lax.pmax(largest, axis_name)
    scale = jnp.where(largest > 0, largest, 1)
    products = jnp.zeros((num_tasks, num_tasks), dtype)
    for row in rows:
        scaled = row / scale[:, None]
        products += jnp.matmul(scaled, scaled.T, precision=jax.lax.Precision.HIGHEST)
    if axis_name is not None:
        products = jax.lax.psum(products, axis_name)

    lengths = jnp.sqrt(jnp.diagonal(products))
    unit = jnp.where(lengths > 0, lengths, 1)
    cosines = jnp.clip(products / unit[:, None] / unit[None, :], -1, 1)
    own = (lengths > 0).astype(dtype)
    cosines = jnp.where(jnp.eye(num_tasks, dtype=bool), own[:, None], cosines)
    return Geometry(norms=lengths * scale, cosines=cosines)


def combine(weights: jax.Array, leaves: list[jax.Array]) -> list[jax.Array]:
    """Σ_k w_k g_k of every leaf [K, ...], in the weights' precision."""
    highest = jax.lax.Precision.HIGHEST
    return [jnp.tensordot(weights, leaf.astype(weights.dtype), axes=1, precision=highest) for leaf in leaves]


def task_losses(losses: jax.Array | Sequence[Any], num_tasks: int) -> jax.Array:
    """Losses as an array [K].

    Raises:
        ValueError: they are not of K tasks.
    """
    losses = jnp.asarray(losses)
    if losses.shape != (num_tasks,):
        raise ValueError(f"expected losses of shape ({num_tasks},), one for each task, got shape {losses.shape}")
    return losses


def check_kept(method: str, kept: Sequence[jax.Array], leaves: Sequence[jax.Array]) -> None:
    """Raises ValueError where what a state keeps has other shapes than the gradients that have come."""
    for before, now in zip(kept, leaves, strict=True):
        if before.shape != now.shape:
            raise ValueError(
                f"{method}: task gradients of shape {now.shape} have come where init's parameters were of "
                f"{before.shape[1:]}: give init the parameters, without a task axis"
            )


def from_geometry(
    weigh: Weigh,
    *,
    num_tasks: int,
    inner: Callable[[Any], Any] = lambda dtype: (),
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A gradient balancing whose weights follow from lengths and angles.

    Args:
        weigh: `(geometry, losses, inner) -> (weights [K], inner)`.
        num_tasks: K.
        inner: the dtype that is computed in → the method's own state at the start.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.
    """

    def direct(
        leaves: list[jax.Array], measured: Geometry, losses: jax.Array | None, state: Any
    ) -> tuple[list[jax.Array], jax.Array, Any]:
        weights, state = weigh(measured, losses, state)
        return combine(weights, leaves), weights, state

    return from_gradients(
        direct,
        num_tasks=num_tasks,
        inner=lambda leaves, dtype: inner(dtype),
        shared=shared,
        axis_name=axis_name,
    )


def from_gradients(
    direct: Direct,
    *,
    num_tasks: int,
    inner: Callable[[list[jax.Array], Any], Any] = lambda leaves, dtype: (),
    weighted: bool = True,
    own: Callable[[jax.Array | None], jax.Array] | None = None,
    samples: int = 0,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A gradient balancing that sees the shared parameters' gradients themselves.

    Shared parameters get what `direct` gives; the others Σ_k g_k, which is their own task's gradient, since the other
    tasks' are zero there. Computed in float32 (float64 where a parameter is), returned in the gradients' own dtype.

    Args:
        direct: `(leaves, geometry, losses, inner) -> (leaves, weights, inner)`; leaves come in as [K, ...] in the dtype
            that is computed in and go out without the task axis; weights are None where `weighted` is false.
        num_tasks: K.
        inner: (the shared parameters, the dtype that is computed in) → the method's own state at the start.
        weighted: whether the method has weights.
        own: losses → [K], what multiplies the gradients of parameters that are not shared; 1 without it.
        samples: how many further stacked gradients, of other batches, `update` takes as `independent`: all or none.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: K below 1; from `init`, no parameter is shared; from `update`, losses or a leading axis that are
            not of K tasks, or another number of `independent` gradients than `samples`.
    """
    options.count("weighting", num_tasks=num_tasks)

    def is_shared(tree: Any) -> list[bool]:
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        chosen = [shared is None or shared(jax.tree_util.keystr(path, simple=True, separator="/")) for path in paths]
        if not chosen:
            raise ValueError("there are no parameters: the pytree is empty")
        if not any(chosen):
            raise ValueError("no parameter is shared: the predicate `shared` is false for every path")
        return chosen

    def init(params: optax.Params) -> BalancingState | UnweightedState:
        leaves = [leaf for leaf, kept in zip(jax.tree.leaves(params), is_shared(params), strict=True) if kept]
        dtype = jnp.result_type(jnp.float32, *leaves)
        measured = Geometry(jnp.zeros(num_tasks, dtype), jnp.zeros((num_tasks, num_tasks), dtype))
        if not weighted:
            return UnweightedState(inner(leaves, dtype), measured)
        return BalancingState(inner(leaves, dtype), jnp.ones(num_tasks, dtype), measured)

    def stacked(tree: Any, dtype: Any) -> list[jax.Array]:
        """The leaves that are shared, in the dtype that is computed in."""
        leaves = jax.tree.leaves(tree)
        for leaf in leaves:
            if leaf.shape[:1] != (num_tasks,):
                raise ValueError(
                    f"expected task gradients with a leading axis of {num_tasks} tasks, got shape {leaf.shape}"
                )
        return [leaf.astype(dtype) for leaf, kept in zip(leaves, is_shared(tree), strict=True) if kept]

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        losses: jax.Array | None = None,
        independent: Sequence[Any] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del params, extra_args
        dtype = state.geometry.norms.dtype
        if losses is not None:
            losses = task_losses(losses, num_tasks)
        gradients = stacked(updates, dtype)
        measured = geometry(gradients, axis_name)
        extra: dict[str, Any] = {}
        if samples:
            if independent is not None and len(independent) != samples:
                raise ValueError(f"expected {samples} independent stacked gradients, got {len(independent)}")
            extra["independent"] = None if independent is None else [stacked(tree, dtype) for tree in independent]
        directed, weights, inner_state = direct(gradients, measured, losses, state.inner, **extra)
        factors = None if own is None else own(losses)
        leaves, structure = jax.tree.flatten(updates)
        out, remaining = [], iter(directed)
        for leaf, kept in zip(leaves, is_shared(updates), strict=True):
            if kept:
                total = next(remaining)
            else:
                total = leaf.astype(jnp.result_type(jnp.float32, leaf))
                if factors is not None:
                    total *= factors.astype(total.dtype).reshape(num_tasks, *[1] * (leaf.ndim - 1))
                total = jnp.sum(total, axis=0)
            out.append(total.astype(leaf.dtype))
        if weights is None:
            return jax.tree.unflatten(structure, out), UnweightedState(inner_state, measured)
        return jax.tree.unflatten(structure, out), BalancingState(inner_state, weights, measured)

    return optax.GradientTransformationExtraArgs(init, update)
