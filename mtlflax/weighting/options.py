"""What the options of a method may be. Each check raises ValueError and names the method, the option and the value.

Options are Python values, fixed when a method is made: none can follow a schedule.
"""

import math
import numbers
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


def positive(method: str, **options: float) -> None:
    """Check that numbers are finite and above 0."""
    _check(method, options, lambda value: 0 < value < math.inf, "must be positive")


def not_negative(method: str, **options: float) -> None:
    """Check that numbers are finite and at least 0."""
    _check(method, options, lambda value: 0 <= value < math.inf, "must be finite and at least 0")


def part(method: str, **options: float) -> None:
    """Check that numbers are in 0..1."""
    _check(method, options, lambda value: 0 <= value <= 1, "must be in 0..1")


def _check(method: str, options: Mapping[str, float], allowed: Callable[[float], bool], rule: str) -> None:
    for option, value in options.items():
        if not isinstance(value, numbers.Real):
            raise ValueError(f"{method}: {option} must be a number, not {value!r}")
        if not allowed(value):
            raise ValueError(f"{method}: {option} {rule}, not {value}")


def count(method: str, **options: int) -> None:
    """Check that values are whole numbers, at least 1."""
    for option, value in options.items():
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{method}: {option} must be a whole number, at least 1, not {value!r}")


def choice(method: str, known: Sequence[str], **options: str) -> None:
    """Check that values are among those known."""
    for option, value in options.items():
        if value not in known:
            raise ValueError(f"{method}: {option} is {value!r}: choose from {', '.join(known)}")


def preference(method: str, values: Sequence[float] | None, num_tasks: int) -> tuple[float, ...]:
    """Return a preference for each task, at least 0; 1/K each if `values` is None."""
    count(method, num_tasks=num_tasks)
    if values is None:
        return (1 / num_tasks,) * num_tasks
    if len(values) != num_tasks:
        raise ValueError(f"{method}: {len(values)} preferences given for {num_tasks} tasks")
    for value in values:
        not_negative(method, preference=value)
    return tuple(float(value) for value in values)


def epoch(method: str, steps_per_epoch: int | None, *, matters: bool = True) -> int:
    """Return the number of updates in an epoch; warn, at the user's line, if it matters and is not given."""
    if steps_per_epoch is None:
        if matters:
            message = (
                f"{method}: steps_per_epoch is not given, so that each update counts as an epoch: pass "
                "steps_per_epoch=<updates in an epoch>"
            )
            warnings.warn(message, UserWarning, stacklevel=_levels_to_the_user())
        return 1
    count(method, steps_per_epoch=steps_per_epoch)
    return steps_per_epoch


def _levels_to_the_user() -> int:
    """The stack level, seen from the caller, of the first line outside this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level
