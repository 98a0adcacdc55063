"""Which states have weights: told by their class, since parameters may be tuples with a field of that name too."""

from typing import Any, TypeVar

T = TypeVar("T", bound=type)

_WITH_WEIGHTS: set[type] = set()


def has_weights(state_class: T) -> T:
    """Marks a NamedTuple class of states whose field `weights`, [K], `weighting.weights` is to read."""
    if "weights" not in getattr(state_class, "_fields", ()):
        raise TypeError(f"{state_class.__name__} is not a NamedTuple with a field weights")
    _WITH_WEIGHTS.add(state_class)
    return state_class


def is_weighted(node: Any) -> bool:
    """Whether a node of a state is of such a class."""
    return type(node) in _WITH_WEIGHTS
