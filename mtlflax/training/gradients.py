"""How the train step takes its gradient: one pullback for a loss weighting, task gradients for what looks at them.

Trunk and branches (`trunk`) are linearised once. Branches are pulled back once, whatever the method; the trunk
once for a loss weighting and at level 'representation', and K times, unrolled, for methods that look at the gradients
of its parameters. Methods that take independent samples have each half of the batch pulled back instead of the whole.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mtlflax.errors import UserError
from mtlflax.tasks import Task
from mtlflax.training import trunk
from mtlflax.training.method import Method
from mtlflax.training.parallel import AXIS


class Gradient(NamedTuple):
    """What a backward pass gives, the same on every device.

    Attributes:
        losses: float32 [K].
        params: the gradient, as the parameters.
        state: the method's.
        batch_stats: updated.
    """

    losses: jax.Array
    params: Any
    state: Any
    batch_stats: Any


# (params, batch_stats, the method's state, normalised images, batch, **what a loss weighting needs) -> Gradient
Backward = Callable[..., Gradient]


class _Pulled(NamedTuple):
    """Task gradients, taken as far as all methods need them, and how to go on.

    Attributes:
        losses: [K].
        own: for each task the gradient of the branches' parameters, averaged over the devices.
        features: for each task and each part of the batch, this device's gradient of the features.
        pull: a gradient of the features → that of the trunk's parameters, averaged over the devices.
    """

    losses: jax.Array
    own: list[Any]
    features: list[list[Any]]
    pull: Callable[[Any], Any]


def make_backward(model: nn.Module, tasks: Sequence[Task], method: Method) -> Backward:
    """The backward pass of a method, per device; reduces over `parallel.AXIS` before the method sees anything."""
    return _task_gradients(model, tasks, method) if method.looks_at_gradients else _weighted(model, tasks, method)


def _weighted(model: nn.Module, tasks: Sequence[Task], method: Method) -> Backward:
    """The gradient of the total with respect to the losses is the weight vector: pulled back once, it is all."""
    task_losses = trunk.make_losses(model, tasks)

    def backward(params: Any, batch_stats: Any, state: Any, images: jax.Array, batch: Any, **extra: Any) -> Gradient:
        losses, pullback, batch_stats = jax.vjp(
            lambda params: task_losses(params, batch_stats, images, batch), params, has_aux=True
        )
        weights, state = method.transform.update(jnp.ones_like(losses), state, losses, **extra)
        (gradient,) = pullback(weights)
        return Gradient(losses, jax.lax.pmean(gradient, AXIS), state, batch_stats)

    return backward


def _task_gradients(model: nn.Module, tasks: Sequence[Task], method: Method) -> Backward:
    """The branches are pulled back one by one, then the trunk as the method asks."""
    parts = max(1, method.samples)

    def backward(params: Any, batch_stats: Any, state: Any, images: jax.Array, batch: Any, **extra: Any) -> Gradient:
        if len(images) % parts:
            raise UserError(
                f"configuration: the weighting takes {parts} independent parts of a batch, and a device has "
                f"{len(images)} frames: give another --config.batch_size, or --config.weighting.independent=False"
            )
        shared, own = trunk.partition(model, params)
        run_trunk, run_branch = trunk.split(model, tasks, own, images, batch, parts)
        features, pull_trunk, stats = jax.vjp(lambda shared: run_trunk(shared, batch_stats), shared, has_aux=True)
        losses, own_gradients, feature_gradients = [], [], []
        for task in tasks:
            branch = run_branch(task, shared, stats)
            of_parts, pull_branch, stats = jax.vjp(branch, own, features, has_aux=True)
            pulled = [pull_branch(one_hot) for one_hot in jnp.eye(parts, dtype=of_parts.dtype)]
            losses.append(jnp.mean(of_parts))
            own_gradients.append(_mean([of_own for of_own, _ in pulled]))
            feature_gradients.append([of_features for _, of_features in pulled])

        def pull(cotangent: Any) -> Any:
            return jax.lax.pmean(pull_trunk(cotangent)[0], AXIS)

        taken = _Pulled(jnp.stack(losses), jax.lax.pmean(own_gradients, AXIS), feature_gradients, pull)
        if method.level is None:
            of_trunk, factors, state = _weigh(method, model, taken, state, extra)
        else:
            of_trunk, factors, state = _balance(method, taken, state)
        gradient = trunk.merge(of_trunk, _combine(factors, taken.own))
        return Gradient(taken.losses, gradient, state, stats)

    return backward


def _balance(method: Method, taken: _Pulled, state: Any) -> tuple[Any, jax.Array, Any]:
    """The trunk's gradient, what multiplies each task's own gradient [K], and the state, of a gradient balancing."""
    size = jax.lax.axis_size(AXIS)
    of_parts = []
    for gradients in zip(*taken.features, strict=True):
        if method.level == "parameters":
            of_parts.append(_stack([taken.pull(gradient) for gradient in gradients]))
        else:
            # The transpose of the losses' psum has made each device's part as many times too large as there are.
            of_parts.append(jax.tree.map(lambda x: x / size, _stack(gradients)))
    diagonal = jnp.eye(len(taken.losses), dtype=taken.losses.dtype)
    stacked = [{"own": diagonal, "trunk": gradients} for gradients in of_parts]
    extra = {"independent": stacked} if method.samples else {}
    balanced, state = method.transform.update(_mean(stacked), state, losses=taken.losses, **extra)
    direction = balanced["trunk"]
    if method.level == "representation":
        direction = taken.pull(jax.tree.map(lambda x: x * size, direction))
    return direction, balanced["own"], state


def _weigh(method: Method, model: Any, taken: _Pulled, state: Any, extra: dict[str, Any]) -> tuple[Any, jax.Array, Any]:
    """The same of a loss weighting that asks for gradients. What it does not look at, the compiler leaves out."""
    features = [gradient for (gradient,) in taken.features]
    task_gradients = [taken.pull(gradient) for gradient in features]
    if "task_gradients" in method.needs:
        extra["task_gradients"] = _stack([_chosen(gradient, model.shared) for gradient in task_gradients])
    if "gradient_norms" in method.needs:
        counts = {
            "last_shared": getattr(model, "last_shared", model.shared),
            "shared": model.shared,
            "own": lambda path: not model.shared(path),
        }[method.norms_of]
        everything = [{**of_trunk, **of_own} for of_trunk, of_own in zip(task_gradients, taken.own, strict=True)]
        extra["gradient_norms"] = jnp.stack([optax.tree.norm(_chosen(gradient, counts)) for gradient in everything])
    weights, state = method.transform.update(jnp.ones_like(taken.losses), state, taken.losses, **extra)
    if "task_gradients" in method.needs or method.norms_of == "shared":
        return _combine(weights, task_gradients), weights, state
    return taken.pull(_combine(weights, features)), weights, state


def _chosen(gradient: trunk.Flat, counts: Callable[[str], bool]) -> trunk.Flat:
    return {path: x for path, x in gradient.items() if counts(path)}


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _mean(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: sum(x) / len(x), *trees) if len(trees) > 1 else trees[0]


def _combine(factors: jax.Array, trees: Sequence[Any]) -> Any:
    """Σ_k factor_k tree_k, in each leaf's own dtype."""
    return jax.tree.map(lambda *x: sum(f.astype(g.dtype) * g for f, g in zip(factors, x, strict=True)), *trees)
