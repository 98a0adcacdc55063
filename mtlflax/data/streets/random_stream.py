"""The random numbers that a scene is drawn with."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class RandomStream:
    """Python numbers that depend on an address only, such as (seed, split, index).

    They are drawn in blocks: the scalar methods of a NumPy Generator would take half the time of drawing a scene.
    """

    def __init__(self, *address: int):
        """Start the stream of an address, a sequence of non-negative integers."""
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(address)))
        self._block: list[float] = []

    def random(self) -> float:
        """Return a number in [0, 1)."""
        if not self._block:
            self._block = self.generator.random(1024).tolist()
        return self._block.pop()

    def uniform(self, low: float, high: float) -> float:
        """Return a number between `low` and `high`."""
        return low + (high - low) * self.random()

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.random() < probability

    def integer(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return low + int((high - low + 1) * self.random())

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[int(len(items) * self.random())]
