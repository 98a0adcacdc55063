"""Loss balancing: transforms of the losses' cotangents [K]; one backward pass, as for a plain sum.

    weights, state = t.update(cotangents, state, losses)      # all [K]; t.init(losses)

A factory a method. Some need more than the losses, `needs(name)` says what, and are given it by name in `update`:

* `gradient_norms` [K]: of the task gradients, before any weighting.
* `task_gradients`: a pytree of [K, ...] over the shared parameters.
* `losses_after` [K]: the losses of the previous update's batch at the parameters after that update; not looked at in
  the first update, where anything finite will do.

Computed and kept in float32, or float64 where `init` gets float64 losses.
"""

from collections.abc import Callable
from typing import Any

import optax

from mtlflax.weighting.loss_balancing.adamt import AdamtState, adamt
from mtlflax.weighting.loss_balancing.dwa import DwaState, DwaWindowState, dwa
from mtlflax.weighting.loss_balancing.excess_mtl import ExcessMtlState, excess_mtl
from mtlflax.weighting.loss_balancing.famo import FamoState, famo
from mtlflax.weighting.loss_balancing.gradnorm import GradNormState, gradnorm
from mtlflax.weighting.loss_balancing.learned import LearnedState, imtl_l, uncertainty
from mtlflax.weighting.loss_balancing.logarithmic import LogarithmicState, StchState, geometric, scale_invariant, stch
from mtlflax.weighting.loss_balancing.presets import ewdw, gwgl
from mtlflax.weighting.loss_balancing.random import RandomState, random
from mtlflax.weighting.loss_balancing.static import StaticState, constant, equal

__all__ = [
    "METHODS",
    "NEEDS",
    "AdamtState",
    "DwaState",
    "DwaWindowState",
    "ExcessMtlState",
    "FamoState",
    "GradNormState",
    "LearnedState",
    "LogarithmicState",
    "RandomState",
    "StaticState",
    "StchState",
    "adamt",
    "constant",
    "dwa",
    "equal",
    "ewdw",
    "excess_mtl",
    "famo",
    "geometric",
    "get",
    "gradnorm",
    "gwgl",
    "imtl_l",
    "needs",
    "random",
    "scale_invariant",
    "stch",
    "uncertainty",
]

METHODS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {
    "adamt": adamt,
    "constant": constant,
    "dwa": dwa,
    "equal": equal,
    "ewdw": ewdw,
    "excess_mtl": excess_mtl,
    "famo": famo,
    "geometric": geometric,
    "gradnorm": gradnorm,
    "gwgl": gwgl,
    "imtl_l": imtl_l,
    "random": random,
    "scale_invariant": scale_invariant,
    "stch": stch,
    "uncertainty": uncertainty,
}

# What `update` needs beside the losses; nothing for the others.
NEEDS: dict[str, frozenset[str]] = {
    "adamt": frozenset({"gradient_norms"}),
    "excess_mtl": frozenset({"task_gradients"}),
    "famo": frozenset({"losses_after"}),
    "gradnorm": frozenset({"gradient_norms"}),
    "gwgl": frozenset({"gradient_norms"}),
}


def needs(name: str) -> frozenset[str]:
    """What the method's `update` needs by name: of `gradient_norms`, `task_gradients` and `losses_after`.

    Raises:
        ValueError: unknown name.

    >>> sorted(needs("famo")), sorted(needs("dwa"))
    (['losses_after'], [])
    """
    _check(name)
    return NEEDS.get(name, frozenset())


def get(name: str, **options: Any) -> optax.GradientTransformationExtraArgs:
    """The loss-space transform of that name.

    Raises:
        ValueError: unknown name, or an option that the method does not have.
    """
    _check(name)
    try:
        return METHODS[name](**options)
    except TypeError as error:
        raise ValueError(f"weighting {name!r}: {error}") from error


def _check(name: str) -> None:
    if name not in METHODS:
        raise ValueError(f"unknown weighting {name!r}: choose one of {', '.join(sorted(METHODS))}")
