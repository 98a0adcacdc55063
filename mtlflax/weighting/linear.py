"""From loss space to gradient space: a loss balancing as a linear combination of stacked task gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, stacked


class LinearCombinationState(NamedTuple):
    """State of `linear_combination`.

    Attributes:
        inner: the state of the loss-space transform.
    """

    inner: Any


def linear_combination(
    balancing: optax.GradientTransformation | Callable[[dict[str, Any]], optax.GradientTransformation],
    *,
    num_tasks: int,
    needs: frozenset[str] = frozenset(),
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Lifts a loss-space transform to stacked task gradients: Σ_k w_k g_k over every parameter.

    The sum is taken in float32 (float64 where a parameter is) and returned in the gradients' own dtype. Of what the
    transform needs beside the losses, `gradient_norms` and `task_gradients` are made of the stacked gradients, unless
    `update` is given them; `losses_after` is an argument of `update`. Other extra arguments are handed on.

    Args:
        balancing: a transform in loss space, a chain of several included. One that keeps something in the shape of the
            gradients is given as a function that makes it: of the shared parameters, a dict by path.
        num_tasks: K.
        needs: what the transform needs, as `loss_balancing.needs` says it.
        shared: says of a parameter's path, joined by "/", whether all tasks share it: norms and task gradients are
            over these; without it, over all.
        axis_name: a mapped axis over which each device has its own part of the gradients' coordinates: norms are summed
            over it.

    Raises:
        ValueError: K below 1; an `axis_name` where task gradients are needed; from `update`, no losses, or losses or
            gradients that are not of K tasks; where gradients are looked at, no parameter is shared.

    >>> from mtlflax.weighting import loss_balancing
    >>> chain = optax.chain(loss_balancing.geometric(), loss_balancing.adamt())
    >>> t = linear_combination(chain, num_tasks=2, needs=loss_balancing.needs("adamt"))
    >>> gradient, _ = t.update(jnp.eye(2), t.init(jnp.zeros(2)), losses=jnp.array([1.0, 4.0]))
    >>> gradient.tolist()  # geometric weights (1, 0.25) times equal ones
    [0.5, 0.125]
    """
    options.count("weighting", num_tasks=num_tasks)
    if axis_name is not None and "task_gradients" in needs:
        raise ValueError(
            f"axis_name is {axis_name!r}: a method that keeps task gradients as its state (excess_mtl) needs whole "
            "ones, not parts of them on each device"
        )

    def transform(parameters: dict[str, Any]) -> optax.GradientTransformationExtraArgs:
        made = balancing if isinstance(balancing, optax.GradientTransformation) else balancing(parameters)
        return optax.with_extra_args_support(made)

    def choose(tree: Any) -> dict[str, Any]:
        """The shared parameters by path; none where nothing looks at them."""
        if not needs & {"gradient_norms", "task_gradients"}:
            return {}
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        by_path = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
        chosen = {path: leaf for path, leaf in by_path.items() if shared is None or shared(path)}
        if not chosen:
            raise ValueError("no parameter is shared: the predicate `shared` is false for every path")
        return chosen

    def init(params: optax.Params) -> LinearCombinationState:
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
        return LinearCombinationState(transform(choose(params)).init(jnp.zeros(num_tasks, dtype)))

    def update(
        updates: optax.Updates,
        state: LinearCombinationState,
        params: optax.Params | None = None,
        *,
        losses: jax.Array | None = None,
        losses_after: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LinearCombinationState]:
        del params
        if losses is None:
            raise ValueError("update needs losses=..., one for each task")
        losses = stacked.task_losses(losses, num_tasks)
        if losses_after is not None:
            losses_after = stacked.task_losses(losses_after, num_tasks)
        leaves, structure = jax.tree.flatten(updates)
        for leaf in leaves:
            if leaf.shape[:1] != (num_tasks,):
                raise ValueError(
                    f"expected task gradients with a leading axis of {num_tasks} tasks, got shape {leaf.shape}"
                )
        gradients = choose(updates)
        if "gradient_norms" in needs:
            extra_args.setdefault("gradient_norms", stacked.geometry(gradients, axis_name).norms)
        if "task_gradients" in needs:
            extra_args.setdefault("task_gradients", gradients)
        cotangents = jnp.ones(num_tasks, jnp.result_type(jnp.float32, *leaves))
        of_parameters = {path: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for path, leaf in gradients.items()}
        weights, inner = transform(of_parameters).update(
            cotangents, state.inner, losses, losses_after=losses_after, **extra_args
        )
        totals = stacked.combine(weights, leaves)
        totals = [total.astype(leaf.dtype) for total, leaf in zip(totals, leaves, strict=True)]
        return jax.tree.unflatten(structure, totals), LinearCombinationState(inner)

    return optax.GradientTransformationExtraArgs(init, update)
