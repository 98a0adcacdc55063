"""How the train step takes its gradient: one pullback for a loss weighting, task gradients for what looks at them.

A network is a trunk that all tasks share and a branch for each, linearised once. Branches are pulled back once,
whatever the method; the trunk once for a loss weighting and at level 'representation', and K times, unrolled, for
methods that look at the gradients of its parameters. A network without such a split is all trunk: its branches pick
their task's loss.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from mtlflax import weighting
from mtlflax.parallel import AXIS
from mtlflax.tasks import Task

LEVELS = ("parameters", "representation")
NORMS_OF = ("last_shared", "shared", "own")


@dataclasses.dataclass(frozen=True)
class Method:
    """A weighting as the step takes it.

    Attributes:
        transform: in loss space, or, where there is a level, on stacked task gradients `{"own": eye(K), "trunk": ...}`:
            what multiplies the gradient of a branch's parameters is read off a diagonal that is not shared.
        start: of a loss weighting, (number of tasks, the shared parameters) → its state.
        level: None for a loss weighting. For a gradient balancing, whether it acts on the gradients of the shared
            'parameters' or of the 'representation', the features that the trunk gives.
        needs: what a loss weighting looks at beside the losses.
        norms_of: which parameters its gradient norms are of: 'last_shared', the network's last shared layers, 'shared',
            or each task's 'own'.
    """

    transform: optax.GradientTransformationExtraArgs
    start: Callable[[int, Any], Any] | None = None
    level: str | None = None
    needs: frozenset[str] = frozenset()
    norms_of: str = "shared"

    @property
    def looks_at_gradients(self) -> bool:
        """Whether there is more to do than pulling weighted losses back."""
        return self.level is not None or bool(self.needs - {"losses_after"})


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


def loss_balancing(name: str, *, norms_of: str = "", **options: Any) -> Method:
    """A loss weighting for the step.

    Args:
        name: one of `weighting.loss_balancing.METHODS`.
        norms_of: one of `NORMS_OF`; by default the method's own choice: the last shared layers (Chen et al. 2018,
            section 3.1), for `adamt` each task's own (Jha et al. 2020).
        **options: the method's.

    Raises:
        ValueError: an unknown name or option.
    """
    norms_of = norms_of or ("own" if name == "adamt" else "last_shared")
    if norms_of not in NORMS_OF:
        raise ValueError(f"weighting.norms_of is {norms_of!r}: choose one of {', '.join(NORMS_OF)}")
    needs = weighting.loss_balancing.needs(name)

    def start(num_tasks: int, shared: Any) -> Any:
        about = {"parameters": shared} if "task_gradients" in needs else {}
        return weighting.loss_balancing.get(name, **options, **about).init(jnp.zeros(num_tasks))

    return Method(weighting.loss_balancing.get(name, **options), start, needs=needs, norms_of=norms_of)


def gradient_balancing(name: str, model: Any, *, num_tasks: int, level: str = "parameters", **options: Any) -> Method:
    """A gradient balancing for the step.

    Raises:
        ValueError: an unknown name, option or level, or a method or network that has no such level.
    """
    if level not in LEVELS:
        raise ValueError(f"weighting.level is {level!r}: choose {' or '.join(LEVELS)}")
    if level == "representation" and not has_trunk(model):
        raise ValueError(f"weighting.level is {level!r}: {type(model).__name__} has no trunk that gives features")

    def shared(path: str) -> bool:
        kind, _, rest = path.partition("/")
        return kind == "trunk" and (level == "representation" or model.shared(rest))

    axis_name = AXIS if level == "representation" else None  # a device has its own frames' features
    get = weighting.gradient_balancing.get
    transform = get(name, num_tasks=num_tasks, shared=shared, axis_name=axis_name, **options)
    return Method(transform, level=level)


def has_trunk(model: nn.Module) -> bool:
    """Whether the network splits into what is shared and what is not."""
    return hasattr(model, "encode") and hasattr(model, "decode")


def init(method: Method, model: nn.Module, variables: Mapping[str, Any], images: jax.Array, num_tasks: int) -> Any:
    """The method's state at step 0."""
    trunk, _ = _partition(model, variables["params"])
    if method.start is not None:
        return method.start(num_tasks, {path: x for path, x in trunk.items() if model.shared(path)})
    if method.level == "representation":
        shapes = jax.eval_shape(lambda v: model.apply(v, images, method="encode"), variables)
        trunk = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return method.transform.init({"own": jnp.zeros(num_tasks), "trunk": trunk})


def make_backward(model: nn.Module, tasks: Sequence[Task], method: Method) -> Backward:
    """The backward pass of a method, per device; reduces over `parallel.AXIS` before the method sees anything."""
    return _task_gradients(model, tasks, method) if method.looks_at_gradients else _weighted(model, tasks, method)


def make_losses(model: nn.Module, tasks: Sequence[Task]) -> Callable[..., tuple[jax.Array, Any]]:
    """(params, batch_stats, images, batch) → the losses [K] in training and the batch statistics, updated."""

    def losses(params: Any, batch_stats: Any, images: jax.Array, batch: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        values = [task.loss(task.activation(outputs[task.name]), batch, AXIS) for task in tasks]
        return jnp.stack(values), updated.get("batch_stats", {})

    return losses


def _weighted(model: nn.Module, tasks: Sequence[Task], method: Method) -> Backward:
    """The gradient of the total with respect to the losses is the weight vector: pulled back once, it is all."""
    task_losses = make_losses(model, tasks)

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

    def backward(params: Any, batch_stats: Any, state: Any, images: jax.Array, batch: Any, **extra: Any) -> Gradient:
        trunk, own = _partition(model, params)
        run_trunk, run_branch = _split(model, tasks, own, images, batch)
        features, pull_trunk, stats = jax.vjp(lambda trunk: run_trunk(trunk, batch_stats), trunk, has_aux=True)
        losses, own_gradients, feature_gradients = [], [], []
        for task in tasks:
            branch = run_branch(task, trunk, stats)
            loss, pull_branch, stats = jax.vjp(branch, own, features, has_aux=True)
            of_own, of_features = pull_branch(jnp.ones_like(loss))
            losses.append(loss)
            own_gradients.append(of_own)
            feature_gradients.append(of_features)

        def pull(cotangent: Any) -> Any:
            return jax.lax.pmean(pull_trunk(cotangent)[0], AXIS)

        own_gradients = jax.lax.pmean(own_gradients, AXIS)
        trunk_gradient, factors, state = _balance(
            method, model, jnp.stack(losses), own_gradients, feature_gradients, pull, state, extra
        )
        gradient = _merge(trunk_gradient, _combine(factors, own_gradients))
        return Gradient(jnp.stack(losses), gradient, state, stats)

    return backward


def _balance(
    method: Method,
    model: Any,
    losses: jax.Array,
    own_gradients: list[Any],
    feature_gradients: list[Any],
    pull: Callable[[Any], Any],
    state: Any,
    extra: dict[str, Any],
) -> tuple[Any, jax.Array, Any]:
    """The trunk's gradient, what multiplies each task's own gradient [K], and the method's new state."""
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731 - a word for what follows
    if method.level is not None:
        size = jax.lax.axis_size(AXIS)
        if method.level == "parameters":
            stacked = stack([pull(gradient) for gradient in feature_gradients])
        else:
            # The transpose of the losses' psum has made each device's part as many times too large as there are.
            stacked = jax.tree.map(lambda x: x / size, stack(feature_gradients))
        diagonal = jnp.eye(len(losses), dtype=losses.dtype)
        balanced, state = method.transform.update({"own": diagonal, "trunk": stacked}, state, losses=losses)
        direction = balanced["trunk"]
        if method.level == "representation":
            direction = pull(jax.tree.map(lambda x: x * size, direction))
        return direction, balanced["own"], state

    # A loss weighting that asks for gradients. What it does not look at, the compiler leaves out.
    task_gradients = [pull(gradient) for gradient in feature_gradients]
    if "task_gradients" in method.needs:
        extra["task_gradients"] = stack([{p: g for p, g in t.items() if model.shared(p)} for t in task_gradients])
    if "gradient_norms" in method.needs:
        counts = {
            "last_shared": getattr(model, "last_shared", model.shared),
            "shared": model.shared,
            "own": lambda path: not model.shared(path),
        }[method.norms_of]
        both = [{**of_trunk, **of_own} for of_trunk, of_own in zip(task_gradients, own_gradients, strict=True)]
        norms = [optax.tree.norm({p: g for p, g in gradients.items() if counts(p)}) for gradients in both]
        extra["gradient_norms"] = jnp.stack(norms)
    weights, state = method.transform.update(jnp.ones_like(losses), state, losses, **extra)
    if "task_gradients" in method.needs or method.norms_of == "shared":
        return _combine(weights, task_gradients), weights, state
    return pull(_combine(weights, feature_gradients)), weights, state


def _split(model: Any, tasks: Sequence[Task], own: Any, images: jax.Array, batch: Any) -> tuple[Any, Any]:
    """The trunk, (its parameters, batch_stats) → (features, batch_stats), and what makes a task's branch of those."""
    if not has_trunk(model):
        task_losses = make_losses(model, tasks)
        index = {task.name: i for i, task in enumerate(tasks)}

        def whole(trunk: Any, batch_stats: Any) -> tuple[jax.Array, Any]:
            return task_losses(_merge(trunk, own), batch_stats, images, batch)

        def pick(task: Task, trunk: Any, batch_stats: Any) -> Callable[..., Any]:
            return lambda own, losses: (losses[index[task.name]], batch_stats)

        return whole, pick

    def apply(params: Any, batch_stats: Any, *args: Any, **keywords: Any) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updated = model.apply(variables, *args, train=True, mutable=["batch_stats"], **keywords)
        return outputs, updated.get("batch_stats", {})

    def run_trunk(trunk: Any, batch_stats: Any) -> tuple[Any, Any]:
        return apply(_merge(trunk, own), batch_stats, images, method="encode")

    def run_branch(task: Task, trunk: Any, batch_stats: Any) -> Callable[..., Any]:
        def branch(own: Any, features: Any) -> tuple[jax.Array, Any]:
            keywords = {"method": "decode", "size": images.shape[1:3]}
            output, stats = apply(_merge(trunk, own), batch_stats, features, task.name, **keywords)
            return task.loss(task.activation(output), batch, AXIS), stats

        return branch

    return run_trunk, run_branch


def _partition(model: Any, params: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The trunk's parameters and the branches', by path."""
    flat = flatten_dict(params, sep="/")
    trunk = {path: x for path, x in flat.items() if not has_trunk(model) or model.shared(path)}
    return trunk, {path: x for path, x in flat.items() if path not in trunk}


def _merge(trunk: dict[str, jax.Array], own: dict[str, jax.Array]) -> Any:
    return unflatten_dict({**trunk, **own}, sep="/")


def _combine(factors: jax.Array, trees: Sequence[Any]) -> Any:
    """Σ_k factor_k tree_k, in each leaf's own dtype."""
    return jax.tree.map(lambda *x: sum(f.astype(g.dtype) * g for f, g in zip(factors, x, strict=True)), *trees)
