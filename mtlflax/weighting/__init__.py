"""Multi-task weighting as optax gradient transformations. It needs jax, optax and `mtlflax/compiler.py` alone.

Two forms:

* **Loss space** (`weighting.loss_balancing.<name>(...)`). The gradient of a total loss with respect to the K task
  losses *is* the weight vector. So a loss weighting is a gradient transformation whose parameters are the losses [K]
  and whose updates are their cotangents [K]: it multiplies what comes in, and `optax.chain` composes methods.
* **Stacked task gradients** (`weighting.get(name, num_tasks=K, ...)`). Updates come in with a leading task axis K and
  go out without one, so `optax.chain(weighting.get("cagrad", num_tasks=2), optax.adam(1e-4))` is an optimizer for
  anyone's JAX code. Every method has this form.

`weighting.weights(state)` reads the weights [K] from any optax state, `weighting.geometry(state)` the norms and cosines
of the task gradients. In both forms `update` takes `present`, bool [K]: which tasks have labels, see `present.py`.

What all methods share, and their docstrings do not repeat:

* `num_tasks` is K, `shared` and `axis_name` are as in `get`. Where a method learns, it does by Adam with
  `learning_rate`, or by `optimizer`, an optax transformation.
* ValueError, with the method, the option and the value: an option out of range, and an option with a value per task for
  another number of tasks (in loss space from `init`). From `update`, something that the method needs is not given.
* States are NamedTuples of arrays. `step`, int32 [], counts complete updates; `weights` [K] are the last one's, or 1.
* g_k is the gradient of task k, J the matrix of these rows, L_k its loss, w_k its weight, d the direction.
"""

from collections.abc import Callable
from typing import Any

import jax

from mtlflax.weighting import gradient_balancing, lift, loss_balancing, spec
from mtlflax.weighting.lift import linear_combination
from mtlflax.weighting.spec import Factory
from mtlflax.weighting.stacked import Geometry, Predicate
from mtlflax.weighting.states import has_weights, weights

__all__ = [
    "METHODS",
    "find",
    "geometry",
    "get",
    "gradient_balancing",
    "has_weights",
    "linear_combination",
    "loss_balancing",
    "names",
    "options",
    "spec",
    "weights",
]

METHODS: dict[str, Factory] = {**loss_balancing.METHODS, **gradient_balancing.METHODS}


def names() -> tuple[str, ...]:
    """Return the names of the built-in methods."""
    return tuple(sorted(METHODS))


def find(method: str | Callable[..., Any]) -> Factory:
    """Return the factory of a method: one of `names()`, or your own that carries a spec; anything else: ValueError."""
    if isinstance(method, str) and method not in METHODS:
        raise ValueError(f"unknown weighting {method!r}: choose from {', '.join(names())}")
    factory: Any = METHODS[method] if isinstance(method, str) else method
    spec.of(factory)  # raises without one
    return factory


def options(method: str | Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a method with their defaults, as `get` and `config.weighting` take them.

    `get` also takes `optimizer`, which no config can hold, where a method learns.

    >>> options("cagrad")
    {'alpha': 0.5, 'scale': 'raw', 'level': 'parameters'}
    """
    return spec.options(find(method))


def get(
    method: str | Callable[..., Any],
    *,
    num_tasks: int,
    shared: Predicate | None = None,
    last_shared: Predicate | None = None,
    axis_name: str | None = None,
    **options: Any,
) -> spec.Transformation:
    """Return a weighting method as a gradient transformation on stacked task gradients.

    `grads, state = t.update(task_grads, state, params, losses=losses)`: `task_grads` is shaped as `params` with a
    leading axis K, `losses` is float32 [K], and `grads` is shaped as `params`. `update` also takes `present`, bool [K],
    which tasks have labels in this step; `losses_after` if `find(method).spec.needs` has it, the losses of the batch of
    the last complete update at the parameters after it; and `independent` if the method takes independent samples.

    Args:
        method: one of `names()`, or a factory of your own that carries a spec.
        num_tasks: K.
        shared: whether all tasks share a parameter, by its path, joined by "/"; None: all do. A gradient balancing
            changes the gradients of shared parameters, the others get their own task's. A loss balancing weighs all
            parameters alike; if it looks at gradients, then at those that `norms_of` says.
        last_shared: the last shared layers, for `norms_of="last_shared"`; None: all that is shared.
        axis_name: a mapped axis over which each device has its own part of the gradients' coordinates (those of its own
            features, for example): lengths and angles are then summed over it. Not for replicated gradients.
        **options: those of `weighting.options(method)`, and `optimizer` where a method learns. `level` says whether
            the shared gradients given are those of "parameters" or of a "representation", the features of a batch.

    Raises:
        ValueError: an unknown name or option, an option out of range, a factory without a spec, a K that is not a whole
            number of at least 1, or an `axis_name` or level "representation" for a method that keeps gradients as its
            state. From `update`: losses or gradients that are not of K tasks, or no losses where they are needed.

    >>> import jax.numpy as jnp, optax
    >>> optimizer = optax.chain(get("equal", num_tasks=2), optax.sgd(1.0))
    >>> params = {"w": jnp.zeros(2)}
    >>> state = optimizer.init(params)
    >>> task_grads = {"w": jnp.array([[1.0, 0.0], [0.0, 2.0]])}
    >>> updates, state = optimizer.update(task_grads, state, params, losses=jnp.array([1.0, 1.0]))
    >>> updates["w"].tolist()
    [-1.0, -2.0]
    """
    factory = find(method)
    if factory.spec.form == "losses":
        balancing = lift.from_factory(factory, shared=shared, last_shared=last_shared, axis_name=axis_name, **options)
        return linear_combination(balancing, num_tasks=num_tasks)
    spec.check_options(factory, options)
    spec.check_keeps(factory, options.pop("level", "parameters"), axis_name)
    if not factory.spec.keeps_gradients:
        options["axis_name"] = axis_name
    made: Any = factory(num_tasks, shared=shared, **options)
    if not hasattr(made, "update"):
        raise ValueError(f"weighting {factory.spec.name!r} returns a {type(made).__name__}, no optax transformation")
    return made


def geometry(state: Any) -> Geometry | None:
    """Return the norms [K] and pairwise cosines [K, K] of the task gradients last seen by a gradient balancing.

    It is the first one in an optax state, however nested; None if there is none.
    """
    nodes: list[Any] = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Geometry))
    return next((node for node in nodes if isinstance(node, Geometry)), None)
