"""Stacked task gradients: pytrees whose leaves have a leading task axis K.

What all gradient balancings share. A method is a function of the gradients' `Geometry` (`from_geometry`) or of the
gradients themselves (`from_gradients`). Which parameters it acts on, in what precision, across which devices, and what
happens in a step without labels for a task is settled here, once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options
from mtlflax.weighting import present as absence
from mtlflax.weighting.measures import Geometry, combine, geometry
from mtlflax.weighting.states import has_weights

Predicate = Callable[[str], bool]  # of a parameter's path, joined by "/"


@has_weights
class BalancingState(NamedTuple):
    """State of a gradient balancing whose direction is a weighted sum of gradients."""

    inner: Any  # the method's own, a pytree of arrays; () if it has none
    weights: jax.Array  # [K]
    geometry: Geometry  # of the task gradients of the last complete update; zeros at the start


class UnweightedState(NamedTuple):
    """State of a gradient balancing without weights, which chooses for each coordinate."""

    inner: Any
    geometry: Geometry


class CountState(NamedTuple):
    """What a method keeps that draws anew in each update."""

    step: jax.Array


def counting(*_: Any) -> CountState:
    """Return it at the start."""
    return CountState(jnp.zeros((), jnp.int32))


# (geometry, losses, inner) -> (weights [K], inner)
Weigh = Callable[[Geometry, jax.Array | None, Any], tuple[jax.Array, Any]]
# (leaves [K, ...], geometry, losses, inner) -> (leaves [...] or None for the weighted sum, weights [K] or None, inner).
# A method that takes independent samples is also given `independent`, a list of leaves each, or None.
Direct = Callable[..., tuple[list[jax.Array] | None, jax.Array | None, Any]]


def path_of(keys: Any) -> str:
    """Return the path of a leaf as predicates take it."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def per_task(vector: jax.Array, leaf: jax.Array) -> jax.Array:
    """Reshape [K] to [K, 1, ...], to go with a leaf [K, ...]."""
    return vector.reshape(-1, *[1] * (leaf.ndim - 1))


def task_losses(losses: jax.Array | Sequence[Any], num_tasks: int) -> jax.Array:
    """Return losses as an array [K]; ValueError if they are not of K tasks."""
    losses = jnp.asarray(losses)
    if losses.shape != (num_tasks,):
        raise ValueError(f"expected losses of shape ({num_tasks},), one for each task, got shape {losses.shape}")
    return losses


def check_tasks(task_grads: Any, num_tasks: int) -> None:
    """Raise ValueError for a leaf without a leading axis of K tasks."""
    for leaf in jax.tree.leaves(task_grads):
        if leaf.shape[:1] != (num_tasks,):
            raise ValueError(f"expected gradients with a leading axis of {num_tasks} tasks, got shape {leaf.shape}")


def check_kept(method: str, kept: Sequence[jax.Array], leaves: Sequence[jax.Array]) -> None:
    """Raise ValueError if the gradients that a state keeps have other shapes than those given."""
    for before, now in zip(kept, leaves, strict=True):
        if before.shape != now.shape:
            raise ValueError(
                f"{method}: task gradients of shape {now.shape} do not match the parameters of shape "
                f"{before.shape[1:]} given to init: give init the parameters, without a task axis"
            )


def from_geometry(
    weigh: Weigh,
    *,
    num_tasks: int,
    inner: Callable[[Any], Any] = lambda dtype: (),
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Make a gradient balancing whose weights follow from lengths and angles.

    `weigh` is `(geometry, losses, inner) -> (weights [K], inner)`, and `inner` maps the dtype of the computation to the
    method's own state at the start. The rest is as in `weighting.get`.
    """

    def direct(_: list[jax.Array], *given: Any) -> tuple[None, jax.Array, Any]:
        return None, *weigh(*given)

    def start(_: list[jax.Array], dtype: Any) -> Any:
        return inner(dtype)

    return from_gradients(direct, num_tasks=num_tasks, inner=start, shared=shared, axis_name=axis_name)


def from_gradients(
    direct: Direct,
    *,
    num_tasks: int,
    inner: Callable[[list[jax.Array], Any], Any] = lambda leaves, dtype: (),
    weighted: bool = True,
    own: Callable[[jax.Array | None], jax.Array] | None = None,
    samples: int = 0,
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Make a gradient balancing that sees the gradients of the shared parameters themselves.

    Shared parameters get what `direct` gives; the others Σ_k g_k, which is their own task's gradient, since those of
    the other tasks are zero. Computed in float32 (float64 where a parameter is), returned in the gradients' own dtype.

    Args:
        direct: `(leaves, geometry, losses, inner) -> (leaves, weights, inner)`. Leaves come in as [K, ...] in the dtype
            of the computation and go out without the task axis; None stands for Σ_k weights_k g_k. Weights are None
            if `weighted` is false.
        num_tasks: K.
        inner: (the shared parameters, the dtype of the computation) → the method's own state at the start.
        weighted: whether the method has weights.
        own: losses → [K], which multiplies the gradients of parameters that are not shared; 1 without it.
        samples: how many further stacked gradients, of other batches, `update` takes as `independent`: all or none.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: K below 1; from `init`, no parameter is shared; from `update`, losses or a leading axis that are
            not of K tasks, or another number of `independent` gradients than `samples`.
    """
    options.count("weighting", num_tasks=num_tasks)

    def is_shared(tree: Any) -> list[bool]:
        chosen = [shared is None or shared(path_of(keys)) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
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

    def shared_leaves(tree: Any, dtype: Any) -> list[jax.Array]:
        check_tasks(tree, num_tasks)
        leaves = jax.tree.leaves(tree)
        return [leaf.astype(dtype) for leaf, kept in zip(leaves, is_shared(tree), strict=True) if kept]

    def own_gradient(leaf: jax.Array, losses: jax.Array | None) -> jax.Array:
        total = leaf.astype(jnp.result_type(jnp.float32, leaf))
        if own is not None:
            total *= per_task(own(losses).astype(total.dtype), leaf)
        return jnp.sum(total, axis=0)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        losses: jax.Array | None = None,
        present: Any = None,
        independent: Sequence[Any] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        dtype = state.geometry.norms.dtype
        if losses is not None:
            losses = absence.clear(present, task_losses(losses, num_tasks), num_tasks)
        check_tasks(updates, num_tasks)
        updates = absence.clear(present, updates, num_tasks)
        gradients = shared_leaves(updates, dtype)
        measured = geometry(gradients, axis_name)
        extra: dict[str, Any] = {}
        if samples:
            if independent is not None and len(independent) != samples:
                raise ValueError(f"expected {samples} independent stacked gradients, got {len(independent)}")
            extra["independent"] = None if independent is None else [shared_leaves(tree, dtype) for tree in independent]
        directed, weights, inner_state = direct(gradients, measured, losses, state.inner, **extra)
        if weights is not None and jnp.shape(weights) != (num_tasks,):
            raise ValueError(f"the weighting gives weights of shape {jnp.shape(weights)}, not ({num_tasks},)")
        new_state: Any = UnweightedState(inner_state, measured)
        if weights is not None:
            new_state = BalancingState(inner_state, weights, measured)
        if present is not None:
            tasks, complete = absence.split(present, num_tasks)
            held = absence.held_weights(state, tasks, dtype)
            weights = held if weights is None else jnp.where(complete, weights, held)
            if directed is not None:
                directed = absence.choose(complete, directed, combine(held, gradients))
            new_state = absence.choose(complete, new_state, state)
        if directed is None:
            assert weights is not None  # without weights, `direct` gives the leaves
            directed = combine(weights, gradients)
        remaining = iter(directed)
        leaves, structure = jax.tree.flatten(updates)
        out = [
            (next(remaining) if kept else own_gradient(leaf, losses)).astype(leaf.dtype)
            for leaf, kept in zip(leaves, is_shared(updates), strict=True)
        ]
        return jax.tree.unflatten(structure, out), new_state

    return optax.GradientTransformationExtraArgs(init, update)
