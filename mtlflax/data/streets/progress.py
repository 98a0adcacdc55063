"""A progress bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType

import tqdm


class Progress:
    """Counts frames on stderr.

    On a terminal it is a tqdm bar. In a log it is a line at the start, at most one each ten seconds,
    and one at the end.
    """

    def __init__(self, what: str, total: int, done: int = 0):
        self._what, self._total, self._done = what, total, done
        self._start, self._first = time.monotonic(), done
        self._last = self._start
        self._bar: tqdm.tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(desc=what, total=total, initial=done, unit="frame")
        else:
            self._say()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._say()

    def update(self, frames: int = 1) -> None:
        """Counts frames that are done."""
        self._done += frames
        if self._bar is not None:
            self._bar.update(frames)
        elif time.monotonic() - self._last >= 10:
            self._say()

    def _say(self) -> None:
        self._last = time.monotonic()
        speed = (self._done - self._first) / max(self._last - self._start, 1e-6)
        rate = f", {speed:.1f} frames/s" if self._done > self._first else ""
        print(f"{self._what}: {self._done}/{self._total}{rate}", file=sys.stderr, flush=True)
