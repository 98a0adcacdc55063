"""Multi-task weighting as optax gradient transformations; lifts out of mtlflax with nothing but jax and optax.

Two forms:

* **Loss space** (`weighting.loss_balancing.<name>(...)`). The gradient of a total loss with respect to the K task
  losses *is* the weight vector, so a loss weighting is a gradient transformation whose parameters are the losses [K]
  and whose updates are their cotangents [K]: it multiplies what comes in, and `optax.chain` composes methods.
* **Stacked task gradients** (`weighting.get(name, num_tasks=K, ...)`). Updates come in with a leading task axis K and
  go out without one, so `optax.chain(weighting.get("dwa", num_tasks=2), optax.adam(1e-4))` is an optimiser for
  anyone's JAX code. Every method has this form.

`weighting.weights(state)` reads the weights [K] out of any optax state, `weighting.geometry(state)` the norms and
cosines of the task gradients.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from mtlflax.weighting import gradient_balancing, loss_balancing
from mtlflax.weighting.linear import linear_combination
from mtlflax.weighting.stacked import Geometry
from mtlflax.weighting.states import has_weights, is_weighted

__all__ = [
    "geometry",
    "get",
    "gradient_balancing",
    "has_weights",
    "linear_combination",
    "loss_balancing",
    "names",
    "weights",
]


def names() -> tuple[str, ...]:
    """The names that `get` knows."""
    return tuple(sorted([*loss_balancing.METHODS, *gradient_balancing.METHODS]))


def get(
    name: str,
    *,
    num_tasks: int,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """A weighting method as a gradient transformation on stacked task gradients.

    `grads, state = t.update(task_grads, state, params, losses=losses)`: `task_grads` is shaped as `params` with a
    leading axis K, `losses` is float32 [K], and `grads` is shaped as `params`. Where `loss_balancing.needs(name)` has
    `losses_after`, `update` takes it too; what else a loss balancing needs is made of `task_grads`.

    Args:
        name: one of `names()`.
        num_tasks: K.
        shared: says of a parameter's path, joined by "/", whether all tasks share it; without it, all do. A gradient
            balancing changes the shared ones, the others get their own task's gradient. A loss balancing weighs all
            parameters alike; one that looks at gradients looks at those of the shared ones.
        axis_name: a mapped axis over which each device has its own part of the gradients' coordinates (those of its own
            features, say): lengths and angles are then summed over it. Not for gradients that are replicated.
        **options: the method's own, as in its factory.

    Raises:
        ValueError: unknown name or option, a K that is no whole number from 1 on, or an `axis_name` for a method that
            keeps gradients as its state. From `update`: losses or gradients that are not of K tasks.

    >>> import jax.numpy as jnp
    >>> optimizer = optax.chain(get("equal", num_tasks=2), optax.sgd(1.0))
    >>> params = {"w": jnp.zeros(2)}
    >>> state = optimizer.init(params)
    >>> task_grads = {"w": jnp.array([[1.0, 0.0], [0.0, 2.0]])}
    >>> updates, state = optimizer.update(task_grads, state, params, losses=jnp.array([1.0, 1.0]))
    >>> updates["w"].tolist()
    [-1.0, -2.0]
    """
    if name in gradient_balancing.METHODS:
        return gradient_balancing.get(name, num_tasks=num_tasks, shared=shared, axis_name=axis_name, **options)
    if name not in loss_balancing.METHODS:
        raise ValueError(f"unknown weighting {name!r}: choose one of {', '.join(names())}")
    balancing: Any = loss_balancing.get(name, **options)
    needs = loss_balancing.needs(name)
    if "task_gradients" in needs:  # it keeps something of their shape

        def balancing(parameters: Any) -> optax.GradientTransformationExtraArgs:
            return loss_balancing.get(name, **{**options, "parameters": parameters})

    return linear_combination(balancing, num_tasks=num_tasks, needs=needs, shared=shared, axis_name=axis_name)


def weights(state: Any) -> jax.Array | None:
    """The product, float32 [K], of all weights in an optax state, however nested or chained; None where there are none.

    The states of this package take part, and those of other classes that are marked with `has_weights`. Several
    weightings are taken for a chain: of one for each group of parameters (`optax.multi_transform`), ask each by itself.
    """
    nodes = jax.tree.leaves(state, is_leaf=is_weighted)
    found = [node.weights for node in nodes if is_weighted(node)]
    product = None
    for factor in found:
        product = factor if product is None else product * factor
    return product


def geometry(state: Any) -> Geometry | None:
    """The norms [K] and pairwise cosines [K, K] of the task gradients last seen by a gradient balancing.

    Returns:
        Those of the first gradient balancing in an optax state, however nested; None where there is none.
    """
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Geometry))
    return next((node for node in nodes if isinstance(node, Geometry)), None)
