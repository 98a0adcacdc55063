"""Defer Ctrl-C and SIGTERM to the points where a run may stop.

A signal handler that raises does so between any two bytecodes: in the middle of a library, which is then left in an
inconsistent state, or in a destructor, where Python drops the exception and the run continues. So long operations defer
the signals, and call `raise_pending` where they may be stopped, or ask `pending` and stop by themselves.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Functions whose exceptions Python drops: destructors, and what JAX has the garbage collector call, which happens often
# while modules are imported.
_DROPPING = ("__del__", "_xla_gc_callback")
# Global, as signals are: the usual handlers while signals are deferred, and the signal that has arrived.
_usual: dict[int, Any] | None = None
_pending: int | None = None


class Stopped(Exception):  # noqa: N818 (it is no error)
    """A signal has asked the run to stop."""


@contextmanager
def deferred() -> Iterator[None]:
    """Defer a first SIGINT or SIGTERM to the next `raise_pending` or the end of the block.

    A SIGINT after it acts at once. A SIGTERM does not: what takes a machine away sends several. If the block is left by
    `Stopped`, the signal has had its effect. It does nothing inside another such block, and outside the main thread,
    where Python runs no signal handlers.
    """
    global _usual, _pending
    if _usual is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _usual = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    _usual = {signum: handler for signum, handler in _usual.items() if handler is not signal.SIG_IGN}  # as under nohup
    for signum in _usual:
        signal.signal(signum, _defer)
    try:
        yield
    except Stopped:
        _pending = None
        raise
    finally:
        usual, _usual = _usual, None
        for signum, handler in usual.items():
            signal.signal(signum, handler)
        pending, _pending = _pending, None
        if pending is not None:
            signal.raise_signal(pending)


def pending() -> str:
    """Return the name of the signal that was deferred; "" if there is none."""
    return "" if _pending is None else signal.Signals(_pending).name


def clear() -> None:
    """Forget the signal that was deferred: what it asks for is done."""
    global _pending
    _pending = None


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C as Python does, by KeyboardInterrupt, which is not lost."""
    if not _comes_again(signum, frame):
        signal.default_int_handler(signum, frame)


def leave(signum: int, frame: FrameType | None) -> None:
    """Handle a signal by SystemExit, with the exit code that shells give it."""
    if not _comes_again(signum, frame):
        sys.exit(128 + signum)


def stop_now(signum: int, frame: FrameType | None) -> None:
    """Handle a signal where nothing need be saved first: raise `Stopped`, once; what ends the process may repeat it."""
    if _comes_again(signum, frame):
        return
    signal.signal(signum, signal.SIG_IGN)
    raise Stopped(signal.Signals(signum).name)


def raise_pending() -> None:
    """Handle a deferred signal, if there is one: the usual handlers raise KeyboardInterrupt or SystemExit."""
    global _pending
    if _pending is not None:
        signum, _pending = _pending, None
        _handle(signum)


def _comes_again(signum: int, frame: FrameType | None) -> bool:
    """Return whether an exception raised now would be lost; then the signal is sent again, a moment later."""
    while frame is not None and frame.f_code.co_name not in _DROPPING:
        frame = frame.f_back
    if frame is None:
        return False
    later = threading.Timer(0.01, os.kill, (os.getpid(), signum))
    later.daemon = True
    later.start()
    return True


def _defer(signum: int, frame: FrameType | None) -> None:
    global _pending
    if _pending is not None and signum == signal.SIGINT:
        _handle(signum)
    _pending = signum
    if signum == signal.SIGINT and sys.stderr.isatty():
        sys.stderr.write("\nstopping after this step; press Ctrl-C again to stop at once\n")


def _handle(signum: int) -> None:
    """Run the usual handler; if it raises, signals stay deferred while things are closed on the way out."""
    assert _usual is not None
    signal.signal(signum, _usual[signum])
    try:
        signal.raise_signal(signum)
    finally:
        signal.signal(signum, _defer)
