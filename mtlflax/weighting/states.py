"""Which states hold weights. They are told by class, because parameters may be tuples with a field `weights` too."""

import functools
import operator
from typing import Any, TypeVar

import jax

T = TypeVar("T", bound=type)

_WITH_WEIGHTS: set[type] = set()


def has_weights(state_class: T) -> T:
    """Mark a NamedTuple class of states whose field `weights`, [K], `weighting.weights` is to read."""
    if "weights" not in getattr(state_class, "_fields", ()):
        raise TypeError(f"{state_class.__name__} is not a NamedTuple with a field weights")
    _WITH_WEIGHTS.add(state_class)
    return state_class


def weights(state: Any) -> jax.Array | None:
    """Return the product, float32 [K], of all weights in an optax state, however nested; None if it holds none.

    The weights of a method are what multiplies the task gradients of a step, or comes nearest to it: see the method.
    Before the first update they are 1 (`constant`: those given). The states of this package count, and classes marked
    with `has_weights`. Several weightings are taken for a chain; with one for each group of parameters
    (`optax.multi_transform`), ask each group's state.
    """

    def is_weighted(node: Any) -> bool:
        return type(node) in _WITH_WEIGHTS

    found = [node.weights for node in jax.tree.leaves(state, is_leaf=is_weighted) if is_weighted(node)]
    return functools.reduce(operator.mul, found) if found else None
