"""The progress of a run: a bar in a terminal, plain lines elsewhere."""

import math
import sys
import time
from typing import TextIO

from tqdm import tqdm


class Progress:
    """The progress of a run: a bar in a terminal, a plain line every few seconds elsewhere.

    Its clock is started and paused by the caller. Speeds are of the steps that finished while it ran, so `update` must
    be called with steps that have finished, not with steps that were only dispatched.

    Of `total` steps, `initial` were done before this process; `batch_size` is the images per step, for the speed. Lines
    go to `stream`, by default standard error, plain ones `every` so many seconds, and none unless `enabled`.
    """

    def __init__(
        self,
        total: int,
        *,
        initial: int = 0,
        batch_size: int,
        enabled: bool = True,
        stream: TextIO | None = None,
        every: float = 10.0,
    ) -> None:
        self._stream = stream or sys.stderr
        self._total, self._batch_size, self._enabled, self._every = total, batch_size, enabled, every
        self._step, self._text, self._printed = initial, "", -math.inf
        self._steps, self._busy = 0, 0.0  # finished while the clock ran; seconds that it ran, up to its last pause
        self._running_since: float | None = None
        self._first = math.nan  # time of its first start
        self._bar = None
        if enabled and self._stream.isatty():
            shape = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}"
            self._bar = tqdm(total=total, initial=initial, file=self._stream, dynamic_ncols=True, bar_format=shape)

    @property
    def images_per_second(self) -> float:
        """Training speed so far, evaluations left out; 0 if nothing has been measured."""
        running = 0.0 if self._running_since is None else time.monotonic() - self._running_since
        busy = self._busy + running
        return self._steps * self._batch_size / busy if busy else 0.0

    def start(self) -> None:
        """Start the clock: steps are being taken."""
        if self._running_since is None:
            self._running_since = time.monotonic()
            if math.isnan(self._first):
                self._first = self._running_since

    def pause(self) -> None:
        """Pause the clock, for an evaluation or the like. The steps taken so far must have finished."""
        if self._running_since is not None:
            self._busy += time.monotonic() - self._running_since
            self._running_since = None

    def update(self, step: int) -> None:
        """Report that this many steps have finished."""
        if self._running_since is not None:
            self._steps += step - self._step
        self._step = step
        if self._bar is not None:
            self._bar.set_postfix_str(self._line(), refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._enabled and (time.monotonic() - self._printed >= self._every or step == self._total):
            self._printed = time.monotonic()
            print(" ".join(filter(None, [f"step {step}/{self._total}", self._line()])), file=self._stream, flush=True)

    def describe(self, text: str) -> None:
        """Show this beside the step from now on: the losses and weights last read."""
        self._text = text

    def write(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._enabled:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()

    def _line(self) -> str:
        parts = [self._text]
        if self._steps:
            # The time left includes evaluations, as frequent as they were so far.
            elapsed = time.monotonic() - self._first
            left = (self._total - self._step) * elapsed / self._steps
            parts += [f"{self.images_per_second:.1f} images/s", f"{format_seconds(left)} left"]
        return " · ".join(filter(None, parts))


def format_seconds(seconds: float) -> str:
    """1.5 → "1s", 90 → "1m30s", 7260 → "2h01m", nan → "?"."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
