"""Work in threads, in order, with a bounded number of things under way."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def mapped(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """Yield the function's results in the order of the items; at most `ahead` of them are begun before they are taken.

    An exception of the function is raised where its result would be.
    """
    begun: deque[Future[Result]] = deque()
    for item in items:
        begun.append(pool.submit(function, item))
        if len(begun) >= ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


class Last:
    """Work whose results nobody needs: `add` waits while more than `most` are under way, `wait` for all of them.

    An exception of the work is raised by the next call.
    """

    def __init__(self, pool: Executor, most: int) -> None:
        self._pool, self._most = pool, most
        self._begun: deque[Future[Any]] = deque()

    def add(self, function: Callable[..., Any], *args: Any) -> None:
        """Begin some work."""
        self._begun.append(self._pool.submit(function, *args))
        while len(self._begun) > self._most:
            self._begun.popleft().result()

    def wait(self) -> None:
        """Wait for all work."""
        while self._begun:
            self._begun.popleft().result()
