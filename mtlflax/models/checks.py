"""Checks of a network's options, each a `ValueError` that names the option."""

import functools
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np


def check_whole(options: Mapping[str, Any], least: int = 1) -> None:
    """Raise ValueError for an option that is not a whole number, or a list of them, of at least `least`."""
    for name, value in options.items():
        several = isinstance(value, tuple | list)
        for number in value if several else [value]:
            if isinstance(number, bool) or not isinstance(number, numbers.Integral) or int(number) < least:
                kind = "whole numbers" if several else "a whole number"
                raise ValueError(f"{name} is {value!r}: must be {kind}, at least {least}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise ValueError for an option that is not one of the choices, type included: 8.0 is not 8, True is not 1."""
    choices = tuple(choices)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name} is {value!r}: choose from {', '.join(map(str, choices))}")


def check_share(name: str, value: float) -> None:
    """Raise ValueError for a share that is not above 0 and at most 1."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}: must be above 0 and at most 1")


def check_single_frame(model: Any, size: tuple[int, int]) -> None:
    """Raise ValueError if a network can't be trained on one frame of (H, W): BatchNorm refuses a single pixel."""
    images = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    alone = model.clone(axis_name=None)
    variables = jax.eval_shape(alone.init, jax.random.key(0), images)
    jax.eval_shape(functools.partial(alone.apply, train=True, mutable=["batch_stats"]), variables, images)
