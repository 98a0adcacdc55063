"""A network and its losses as plain functions: a trunk that all tasks share, and a branch per task.

A network with methods `encode` and `decode` is split so, unless its property `splits` is False: whether it can be
called in two steps may depend on its options. A network without a split is all trunk: its features are the losses, and
a branch picks that of its task.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from mtlflax.models.network import Network
from mtlflax.tasks import Batch, Task
from mtlflax.training.parallel import AXIS

Flat = dict[str, jax.Array]  # parameters by path


def has_trunk(model: Network) -> bool:
    """Whether the network splits into a trunk and branches."""
    return hasattr(model, "encode") and hasattr(model, "decode") and getattr(model, "splits", True)


def partition(model: Network, params: Any) -> tuple[Flat, Flat]:
    """Return the parameters of the trunk and those of the branches.

    The trunk's are those that `model.in_trunk` names, by default those that all tasks share.
    """
    flat = flatten_dict(params, sep="/")
    in_trunk = getattr(model, "in_trunk", model.shared)
    trunk = {path: x for path, x in flat.items() if not has_trunk(model) or in_trunk(path)}
    return trunk, {path: x for path, x in flat.items() if path not in trunk}


def merge(trunk: Flat, own: Flat) -> Any:
    """Undo `partition`."""
    return unflatten_dict({**trunk, **own}, sep="/")


def make_losses(model: Network, tasks: Sequence[Task], parts: int = 1) -> Callable[..., tuple[jax.Array, Any]]:
    """Make the losses of the whole network: (params, batch_stats, images, batch) → (losses [K], batch_stats).

    With `parts` above 1, losses are [K, parts], each over every n-th frame.
    """

    def losses(params: Any, batch_stats: Any, images: jax.Array, batch: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        values = jnp.stack([_with_auxiliary(task, outputs, batch, parts) for task in tasks])
        return values, updated.get("batch_stats", {})

    return losses


def present_tasks(tasks: Sequence[Task], batch: Batch, parts: int = 1) -> jax.Array:
    """Return which tasks have labels in each part of the global batch, bool [K, parts]."""
    counts = []
    for task in tasks:
        valid = task.valid(batch)
        counts.append(jnp.stack([jnp.any(valid[rows]) for rows in _rows(parts)]))
    return jax.lax.psum(jnp.stack(counts).astype(jnp.int32), AXIS) > 0


def split(
    model: Network, tasks: Sequence[Task], own: Flat, images: jax.Array, batch: Any, parts: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Make the two steps of a network on a batch, in training.

    `own` are the branches' parameters, `images` [B, H, W, 3] are normalized, and `parts` is as in `make_losses`.

    Returns:
        The trunk, (its parameters, batch_stats) → (features, batch_stats); and (task, the trunk's parameters,
        batch_stats) → its branch, (the branches' parameters, features) → (losses [parts], batch_stats).
    """
    if not has_trunk(model):
        task_losses = make_losses(model, tasks, parts)
        index = {task.name: i for i, task in enumerate(tasks)}

        def whole(trunk: Flat, batch_stats: Any) -> tuple[jax.Array, Any]:
            return task_losses(merge(trunk, own), batch_stats, images, batch)

        def pick(task: Task, trunk: Flat, batch_stats: Any) -> Callable[..., Any]:
            return lambda own, losses: (losses[index[task.name]].reshape(parts), batch_stats)

        return whole, pick

    def apply(params: Any, batch_stats: Any, *args: Any, **keywords: Any) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updated = model.apply(variables, *args, train=True, mutable=["batch_stats"], **keywords)
        return outputs, updated.get("batch_stats", {})

    def run_trunk(trunk: Flat, batch_stats: Any) -> tuple[Any, Any]:
        return apply(merge(trunk, own), batch_stats, images, method="encode")

    def run_branch(task: Task, trunk: Flat, batch_stats: Any) -> Callable[..., Any]:
        def branch(own: Flat, features: Any) -> tuple[jax.Array, Any]:
            keywords = {"method": "decode", "size": images.shape[1:3]}
            output, stats = apply(merge(trunk, own), batch_stats, features, task.name, **keywords)
            return _loss(task, output, batch, parts).reshape(parts), stats

        return branch

    return run_trunk, run_branch


def _with_auxiliary(task: Task, outputs: Mapping[str, jax.Array], batch: Batch, parts: int) -> Any:
    """A task's loss, and those of the auxiliary predictions that the network has for it, `{task}/aux/{name}`."""
    total = _loss(task, outputs[task.name], batch, parts)
    for name, output in outputs.items():
        if name.startswith(f"{task.name}/aux/"):
            total += task.auxiliary * _loss(task, output, batch, parts)
    return total


def _loss(task: Task, output: jax.Array, batch: Batch, parts: int) -> jax.Array:
    """A task's loss [], or [parts]."""
    prediction = task.activation(output)
    if parts == 1:
        return task.loss(prediction, batch, AXIS)
    losses = [task.loss(prediction[rows], {k: v[rows] for k, v in batch.items()}, AXIS) for rows in _rows(parts)]
    return jnp.stack(losses)


def _rows(parts: int) -> list[slice]:
    """The frames of each part: every n-th, so that the parts are the same however frames are spread over devices."""
    return [slice(i, None, parts) for i in range(parts)]
