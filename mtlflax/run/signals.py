"""When Ctrl-C and SIGTERM may stop a run.

A signal handler that raises does so between any two bytecodes: in the middle of a library, which is then left half
done, or in a destructor, where Python drops the exception and the run goes on. So what lasts holds the signals back and
says, with `check`, where it may be stopped.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# The state of the process, as signals are: the handlers put aside while signals are held back, and what has arrived.
_usual: dict[int, Any] | None = None
_arrived: int | None = None


@contextmanager
def held_back() -> Iterator[None]:
    """Lets a first SIGINT or SIGTERM act only at the next `check`, or when the block is left; a second acts at once.

    Within another such block, and outside the main thread, where Python runs no signal handlers, it does nothing.
    """
    global _usual, _arrived
    if _usual is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _usual = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    _usual = {signum: handler for signum, handler in _usual.items() if handler is not signal.SIG_IGN}  # as under nohup
    for signum in _usual:
        signal.signal(signum, _note)
    try:
        yield
    finally:
        usual, _usual = _usual, None
        for signum, handler in usual.items():
            signal.signal(signum, handler)
        late, _arrived = _arrived, None
        if late is not None:
            signal.raise_signal(late)


def check() -> None:
    """Lets a signal that was held back act: with the usual handlers, raises KeyboardInterrupt or SystemExit."""
    global _arrived
    if _arrived is not None:
        signum, _arrived = _arrived, None
        _act(signum)


def _note(signum: int, frame: FrameType | None) -> None:
    global _arrived
    if _arrived is not None:
        _act(signum)
    _arrived = signum
    if signum == signal.SIGINT and sys.stderr.isatty():
        sys.stderr.write("\nstopping after this step; once more to stop at once\n")


def _act(signum: int) -> None:
    """Runs the usual handler; what it raises leaves the signals held back, for what is closed on the way out."""
    assert _usual is not None
    signal.signal(signum, _usual[signum])
    try:
        signal.raise_signal(signum)
    finally:
        signal.signal(signum, _note)
