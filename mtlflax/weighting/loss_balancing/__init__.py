"""Loss balancing: transforms of the losses' cotangents [K]; one backward pass, as for a plain sum.

    weights, state = t.update(cotangents, state, losses)      # all [K], float32; t.init(losses)

A factory a method. What a method needs beyond the losses (`gradient_norms`, `task_gradients`, `losses_after`) is given
to `update` by name; those here need nothing.
"""

from collections.abc import Callable
from typing import Any

import optax

from mtlflax.weighting.loss_balancing.dwa import DwaState, dwa
from mtlflax.weighting.loss_balancing.static import StaticState, constant, equal

__all__ = ["METHODS", "DwaState", "StaticState", "constant", "dwa", "equal", "get"]

METHODS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {
    "constant": constant,
    "dwa": dwa,
    "equal": equal,
}


def get(name: str, **options: Any) -> optax.GradientTransformationExtraArgs:
    """The loss-space transform of that name.

    Raises:
        ValueError: unknown name, or an option that the method does not have.
    """
    if name not in METHODS:
        raise ValueError(f"unknown weighting {name!r}: choose one of {', '.join(sorted(METHODS))}")
    try:
        return METHODS[name](**options)
    except TypeError as error:
        raise ValueError(f"weighting {name!r}: {error}") from error
