"""What the options of a method may be: each check raises ValueError, naming the method, the option and the value.

Options are Python numbers, fixed when a method is made: none can follow a schedule.
"""

import math
import numbers
from collections.abc import Sequence


def positive(method: str, **options: float) -> None:
    """Finite and above 0."""
    for option, value in options.items():
        if not 0 < _number(method, option, value) < math.inf:
            raise ValueError(f"{method}: {option} must be positive, not {value}")


def not_negative(method: str, **options: float) -> None:
    """Finite, from 0 on."""
    for option, value in options.items():
        if not 0 <= _number(method, option, value) < math.inf:
            raise ValueError(f"{method}: {option} may not be negative or infinite, and is {value}")


def part(method: str, **options: float) -> None:
    """In 0..1."""
    for option, value in options.items():
        if not 0 <= _number(method, option, value) <= 1:
            raise ValueError(f"{method}: {option} must be in 0..1, not {value}")


def count(method: str, **options: int) -> None:
    """A whole number from 1 on."""
    for option, value in options.items():
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{method}: {option} must be a whole number, at least 1, not {value!r}")


def choice(method: str, known: Sequence[str], **options: str) -> None:
    """One of those known."""
    for option, value in options.items():
        if value not in known:
            raise ValueError(f"{method}: {option} is {value!r}: choose one of {', '.join(known)}")


def preference(method: str, values: Sequence[float] | None, num_tasks: int) -> tuple[float, ...]:
    """A number from 0 on for each task; 1/K each where there are none."""
    count(method, num_tasks=num_tasks)
    if values is None:
        return (1 / num_tasks,) * num_tasks
    if len(values) != num_tasks:
        raise ValueError(f"{method}: {len(values)} preferences given for {num_tasks} tasks")
    for value in values:
        not_negative(method, preference=value)
    return tuple(float(value) for value in values)


def _number(method: str, option: str, value: float) -> float:
    if not isinstance(value, numbers.Real):
        raise ValueError(f"{method}: {option} must be a number, not {value!r}")
    return value
