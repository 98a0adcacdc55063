"""Steps in which tasks are absent: the one rule for all methods.

A task is absent from a step if its batch has no label for it. Its loss and gradient are then 0 and say nothing about
the task. In such a step the method does not run: its state stays as it is, bit for bit, and the gradients of the tasks
that are present are combined with the weights of the last complete step (1 before the first one, and for methods that
have no weights). The next complete step is as if the incomplete ones had not happened.

Results are computed and then selected, since collectives must not stand under a condition.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from mtlflax.compiler import barrier
from mtlflax.weighting.measures import FEW
from mtlflax.weighting.states import weights

T = TypeVar("T")


def split(present: Any, num_tasks: int) -> tuple[jax.Array, jax.Array]:
    """Return which tasks are present, bool [K], and whether the step is complete, bool [].

    `present` is bool [K], anything else a ValueError; or [K, S] with S independent samples of a batch: then a task is
    present if it is in any sample, and the step complete if all samples have all tasks.
    """
    present = jnp.asarray(present, bool)
    if present.ndim not in (1, 2) or present.shape[0] != num_tasks:
        raise ValueError(f"expected present of shape ({num_tasks},), one for each task, got shape {present.shape}")
    rows = present.reshape(num_tasks, -1)
    return jnp.any(rows, axis=1), jnp.all(rows)


def held_weights(state: Any, tasks: jax.Array, dtype: Any) -> jax.Array:
    """Return the weights [K] of an incomplete step: those that the state holds, 0 for absent tasks."""
    held = weights(state)
    held = jnp.ones(tasks.shape, dtype) if held is None else held.astype(dtype)
    return jnp.where(tasks, held, 0)


def choose(complete: jax.Array, new: T, old: T) -> T:
    """Return the tree `new` in a complete step, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(complete, a, b), new, old)


def clear(present: Any, tree: T, num_tasks: int) -> T:
    """Return a tree of [K, ...] with 0 for absent tasks, whose losses and gradients may be NaN in a user's code."""
    if present is None:
        return tree
    tasks, _ = split(present, num_tasks)

    def cleared(x: jax.Array) -> jax.Array:
        if num_tasks > FEW:
            return jnp.where(tasks.reshape(-1, *[1] * (jnp.ndim(x) - 1)), x, 0)
        # On a CPU, XLA would otherwise keep each gradient beside its cleared copy.
        return jnp.stack(barrier(*[jnp.where(task, row, 0) for task, row in zip(tasks, x, strict=True)]))

    return jax.tree.map(cleared, tree)


def in_loss_space(transform: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Make a transformation in loss space take `present` in `update` and follow the rule."""
    transform = optax.with_extra_args_support(transform)

    def update(
        cotangents: jax.Array, state: Any, losses: jax.Array | None = None, *, present: Any = None, **extra_args: Any
    ) -> tuple[jax.Array, Any]:
        new, after = transform.update(cotangents, state, losses, **extra_args)
        if present is None:
            return new, after
        tasks, complete = split(present, cotangents.shape[0])
        held = (cotangents * held_weights(state, tasks, jnp.result_type(jnp.float32, cotangents))).astype(new.dtype)
        return jnp.where(complete, new, held), choose(complete, after, state)

    return optax.GradientTransformationExtraArgs(transform.init, update)
