"""Gradient balancing: transforms of stacked task gradients [K, ...] into one direction [...].

    direction, state = t.update(task_grads, state, params, losses=losses)      # t.init(params)

A factory a method, `name(num_tasks, *, shared=None, axis_name=None, **options)`. It acts on the shared parameters
(all, without a predicate); the others get their own task's gradient.
"""

from collections.abc import Callable
from typing import Any

import optax

from mtlflax.weighting.gradient_balancing.bargaining import fairgrad, nash_mtl
from mtlflax.weighting.gradient_balancing.cagrad import cagrad
from mtlflax.weighting.gradient_balancing.db_mtl import db_mtl
from mtlflax.weighting.gradient_balancing.dual_cone import dualproj, upgrad
from mtlflax.weighting.gradient_balancing.graddrop import graddrop
from mtlflax.weighting.gradient_balancing.inverse import aligned_mtl, config, imtl_g
from mtlflax.weighting.gradient_balancing.mgda import mgda
from mtlflax.weighting.gradient_balancing.moco import moco
from mtlflax.weighting.gradient_balancing.plain import mean, sum
from mtlflax.weighting.gradient_balancing.stochastic import modo, sdmgrad
from mtlflax.weighting.gradient_balancing.surgery import gradvac, pcgrad

__all__ = [
    "KEEPS_GRADIENTS",
    "METHODS",
    "aligned_mtl",
    "cagrad",
    "config",
    "db_mtl",
    "dualproj",
    "fairgrad",
    "get",
    "graddrop",
    "gradvac",
    "imtl_g",
    "mean",
    "mgda",
    "moco",
    "modo",
    "nash_mtl",
    "pcgrad",
    "sdmgrad",
    "sum",
    "upgrad",
]

METHODS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {
    "aligned_mtl": aligned_mtl,
    "cagrad": cagrad,
    "config": config,
    "db_mtl": db_mtl,
    "dualproj": dualproj,
    "fairgrad": fairgrad,
    "graddrop": graddrop,
    "gradvac": gradvac,
    "imtl_g": imtl_g,
    "mean": mean,
    "mgda": mgda,
    "moco": moco,
    "modo": modo,
    "nash_mtl": nash_mtl,
    "pcgrad": pcgrad,
    "sdmgrad": sdmgrad,
    "sum": sum,
    "upgrad": upgrad,
}

# Their state has gradients: of parameters only, since those of features belong to their batch.
KEEPS_GRADIENTS = ("db_mtl", "moco")


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
