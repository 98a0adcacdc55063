"""How the train step takes its gradient: one pullback for most loss balancings, task gradients for the rest.

The trunk and the branches (see `trunk`) are linearized once. Branches are pulled back once, whatever the method; the
trunk once for a loss balancing and at level 'representation', and K times, unrolled, for methods that look at the
gradients of its parameters. A method that wants independent samples gets the gradients of each half of the batch.

What a method is shown, how it combines gradients, and what happens without labels for a task is `weighting`'s, the same
as in `weighting.get`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from mtlflax import weighting
from mtlflax.errors import UserError
from mtlflax.models.network import Network
from mtlflax.tasks import Task
from mtlflax.training import parallel, trunk
from mtlflax.training.parallel import AXIS
from mtlflax.training.trunk import Flat
from mtlflax.weighting.lift import LossBalancing, from_factory


@dataclasses.dataclass(frozen=True)
class Method:
    """A weighting method, ready for the train step: a loss balancing or a gradient balancing."""

    spec: weighting.spec.Spec
    balancing: LossBalancing | None = None
    # A gradient balancing, on `{"own": eye(K), "trunk": ...}`: the factor of the gradient of a branch's parameters is
    # read off the diagonal, which is not shared.
    transform: optax.GradientTransformationExtraArgs | None = None
    # Of a gradient balancing: on the gradients of the shared 'parameters', or of the 'representation', the features
    # that the trunk gives.
    level: str | None = None
    # How many independent samples of the task gradients it is given, each of a part of a batch; 0: none, of all of it.
    samples: int = 0


def make_method(method: str | weighting.Factory, model: Network, *, num_tasks: int, **options: Any) -> Method:
    """Make a weighting method for the train step of a network, with the arguments of `weighting.get`.

    The network's `shared` and `last_shared` say what is measured and balanced. ValueError for an unknown name, option
    or level, or a method or network without that level.
    """
    factory = weighting.find(method)
    if factory.spec.form == "losses":
        last_shared = getattr(model, "last_shared", None)
        return Method(factory.spec, from_factory(factory, shared=model.shared, last_shared=last_shared, **options))
    level = options.get("level", "parameters")
    if level == "representation" and not trunk.has_trunk(model):
        raise ValueError(f"weighting.level is {level!r}: {type(model).__name__} has no trunk that gives features")

    def shared(path: str) -> bool:
        kind, _, rest = path.partition("/")
        return kind == "trunk" and (level == "representation" or model.shared(rest))

    # At this level every device has the features of its own frames.
    axis_name = AXIS if level == "representation" and not factory.spec.keeps_gradients else None
    transform = weighting.get(factory, num_tasks=num_tasks, shared=shared, axis_name=axis_name, **options)
    samples = factory.spec.samples if options.get("independent", True) else 0
    return Method(factory.spec, None, transform, level, samples)


def init_method(method: Method, model: Network, variables: Mapping[str, Any], images: Array, num_tasks: int) -> Any:
    """Return the state of the method at step 0."""
    of_trunk, own = trunk.partition(model, variables["params"])
    if method.balancing is not None:
        return method.balancing.init(jnp.zeros(num_tasks), {**of_trunk, **own})
    shared: Any = of_trunk
    if method.level == "representation":
        shapes = jax.eval_shape(lambda v: model.apply(v, images, method="encode"), variables)
        shared = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    assert method.transform is not None
    return method.transform.init({"own": jnp.zeros(num_tasks), "trunk": shared})


class Gradient(NamedTuple):
    """The result of a backward pass, the same on every device."""

    losses: Array  # float32 [K]
    present: Array  # bool [K, parts], which tasks have labels in each part of the global batch
    params: Any  # the gradient, shaped as the parameters
    state: Any  # the method's
    batch_stats: Any  # updated


Mean = Callable[[Any], Any]  # a tree of gradients, averaged over the devices
# (params, batch_stats, the method's state, normalized images, batch, losses_after) -> Gradient
Backward = Callable[[Any, Any, Any, Array, Any, Array], Gradient]


class _TaskGradients(NamedTuple):
    """Task gradients up to the features, which all methods need, and the trunk's pullback for the rest of the way."""

    losses: Array  # [K]
    branches: list[Flat]  # for each task this device's gradient of the branches' parameters
    features: list[list[Any]]  # for each task and each part of the batch, this device's gradient of the features
    to_trunk: Callable[[Any], Flat]  # a gradient of the features → the trunk's parameters', both this device's
    mean: "Mean"
    extra: dict[str, Any]  # further arguments of the method's update


def make_backward(
    model: Network, tasks: Sequence[Task], method: Method, mean: Mean = parallel.mean_over_devices
) -> Backward:
    """Make the backward pass of a method, per device; it reduces over `parallel.AXIS` before the method runs.

    `mean` averages a tree of gradients over the devices.
    """
    if method.balancing is not None and not method.balancing.looks_at_gradients:
        return _backward_of_weighted_sum(model, tasks, method.balancing, mean)
    return _backward_of_each_task(model, tasks, method, mean)


def _backward_of_weighted_sum(model: Network, tasks: Sequence[Task], balancing: LossBalancing, mean: Mean) -> Backward:
    """The gradient of the total with respect to the losses is the weight vector: it is pulled back once."""
    task_losses = trunk.make_losses(model, tasks)

    def backward(params: Any, batch_stats: Any, state: Any, images: Array, batch: Any, losses_after: Array) -> Gradient:
        losses, pullback, batch_stats = jax.vjp(
            lambda params: task_losses(params, batch_stats, images, batch), params, has_aux=True
        )
        present = trunk.present_tasks(tasks, batch)
        extra = {"present": present, "losses_after": losses_after}
        weights, state = balancing.weigh(state, losses, {}, jnp.ones_like(losses), **extra)
        (gradient,) = pullback(weights)
        return Gradient(losses, present, mean(gradient), state, batch_stats)

    return backward


def _backward_of_each_task(model: Network, tasks: Sequence[Task], method: Method, mean: Mean) -> Backward:
    """The branches are pulled back one by one, then the trunk as the method asks."""
    parts = max(1, method.samples)

    def backward(params: Any, batch_stats: Any, state: Any, images: Array, batch: Any, losses_after: Array) -> Gradient:
        if len(images) % parts:
            raise UserError(
                f"config: the weighting takes {parts} equal parts of each device's share of the batch, which is "
                f"{len(images)}: give another --config.batch_size, or --config.weighting.independent=False"
            )
        present = trunk.present_tasks(tasks, batch, parts)
        shared, own = trunk.partition(model, params)
        run_trunk, run_branch = trunk.split(model, tasks, own, images, batch, parts)
        features, pull_trunk, stats = jax.vjp(lambda shared: run_trunk(shared, batch_stats), shared, has_aux=True)
        losses, branch_gradients, feature_gradients = [], [], []
        for task, with_labels in zip(tasks, present, strict=True):
            of_parts, pull_branch, stats = jax.vjp(run_branch(task, shared, stats), own, features, has_aux=True)
            gradients = [pull_branch(one_hot) for one_hot in jnp.eye(parts, dtype=of_parts.dtype)]
            losses.append(_mean(list(of_parts), with_labels))
            branch_gradients.append(_mean([of_branch for of_branch, _ in gradients], with_labels))
            feature_gradients.append([of_features for _, of_features in gradients])

        def to_trunk(cotangent: Any) -> Flat:
            return pull_trunk(cotangent)[0]

        extra = {"present": present, "losses_after": losses_after}
        # The losses are reduced already, see `losses.masked_mean`.
        task_gradients = _TaskGradients(jnp.stack(losses), branch_gradients, feature_gradients, to_trunk, mean, extra)
        if method.balancing is not None:
            of_trunk, own, state = _balance_losses(method.balancing, task_gradients, state)
        else:
            of_trunk, own, state = _balance_gradients(method, task_gradients, state)
        gradient = trunk.merge(of_trunk, own)
        return Gradient(task_gradients.losses, present, gradient, state, stats)

    return backward


def _balance_gradients(method: Method, task_gradients: _TaskGradients, state: Any) -> tuple[Flat, Flat, Any]:
    """The gradients of the trunk's and of the branches' parameters, and the state, of a gradient balancing."""
    size = jax.lax.axis_size(AXIS)
    per_part = list(zip(*task_gradients.features, strict=True))
    branches = task_gradients.branches
    if method.level == "parameters":
        of_trunk = [_stack([task_gradients.to_trunk(gradient) for gradient in gradients]) for gradients in per_part]
        of_parts, branches = task_gradients.mean((of_trunk, branches))
    else:
        # The transpose of the losses' psum has multiplied each device's part by the number of devices.
        of_parts = [jax.tree.map(lambda x: x / size, _stack(gradients)) for gradients in per_part]
    diagonal = jnp.eye(len(task_gradients.losses), dtype=task_gradients.losses.dtype)
    samples = [{"own": diagonal, "trunk": gradients} for gradients in of_parts]
    mean = {"own": diagonal, "trunk": _mean(of_parts, task_gradients.extra["present"])}
    extra = task_gradients.extra | ({"independent": samples} if method.samples else {})
    assert method.transform is not None
    balanced, state = method.transform.update(mean, state, losses=task_gradients.losses, **extra)
    direction, own = balanced["trunk"], _combine(balanced["own"], branches)
    if method.level == "representation":
        pulled = task_gradients.to_trunk(jax.tree.map(lambda x: x * size, direction))
        direction, own = task_gradients.mean((pulled, own))
    return direction, own, state


def _balance_losses(balancing: LossBalancing, task_gradients: _TaskGradients, state: Any) -> tuple[Flat, Flat, Any]:
    """The same of a loss balancing that looks at gradients."""
    features = [gradient for (gradient,) in task_gradients.features]
    mine = [task_gradients.to_trunk(gradient) for gradient in features], task_gradients.branches
    whole = "task_gradients" in balancing.needs or balancing.norms_of == "shared"
    # One array after the other if few are looked at: the compiler drops the rest, and the way back to them.
    of_trunk, of_branches = task_gradients.mean(mine) if whole else jax.lax.pmean(mine, AXIS)
    everything = _stack([{**shared, **own} for shared, own in zip(of_trunk, of_branches, strict=True)])
    weights, state = balancing.weigh(
        state, task_gradients.losses, everything, jnp.ones_like(task_gradients.losses), **task_gradients.extra
    )
    if whole:
        return _combine(weights, of_trunk), _combine(weights, of_branches), state
    pulled, own = task_gradients.to_trunk(_combine(weights, features)), _combine(weights, task_gradients.branches)
    return *task_gradients.mean((pulled, own)), state


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _mean(trees: Sequence[Any], present: Array) -> Any:
    """The mean over the parts of a batch with labels, bool [parts] or [K, parts], of trees; those of others are 0."""
    if len(trees) == 1:
        return trees[0]
    count = jnp.maximum(jnp.sum(present, axis=-1), 1)

    def mean(*x: Array) -> Array:
        return sum(x) / count.reshape(*count.shape, *[1] * (x[0].ndim - count.ndim))

    return jax.tree.map(mean, *trees)


def _combine(factors: Array, trees: Sequence[Any]) -> Any:
    """Σ_k factor_k tree_k, in each leaf's own dtype."""
    return jax.tree.map(lambda *x: sum(f.astype(g.dtype) * g for f, g in zip(factors, x, strict=True)), *trees)
