"""Gradient balancing: transforms of stacked task gradients [K, ...] into one direction [...].

    direction, state = t.update(task_grads, state, params, losses=losses)      # t.init(params)

A factory a method, `name(num_tasks, *, shared=None, axis_name=None, **options)`. It acts on the shared parameters
(all, without a predicate); the others get their own task's gradient.
"""

from collections.abc import Callable
from typing import Any

import optax

from mtlflax.weighting.gradient_balancing.plain import mean, sum

__all__ = ["METHODS", "get", "mean", "sum"]

METHODS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {
    "mean": mean,
    "sum": sum,
}


def get(
    name: str,
    *,
    num_tasks: int,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """The gradient balancing of that name; arguments as in `weighting.get`.

    Raises:
        ValueError: unknown name, or an option that the method does not have.
    """
    if name not in METHODS:
        raise ValueError(f"unknown gradient balancing {name!r}: choose one of {', '.join(sorted(METHODS))}")
    try:
        return METHODS[name](num_tasks, shared=shared, axis_name=axis_name, **options)
    except TypeError as error:
        raise ValueError(f"weighting {name!r}: {error}") from error
