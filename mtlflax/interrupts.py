"""When Ctrl-C and SIGTERM may stop a run."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_back() -> Iterator[None]:
    """Lets a first SIGINT or SIGTERM act only when the block is left; a second one acts at once.

    For calls into libraries that an exception in their middle leaves with threads talking to what is gone. Outside the
    main thread, where Python runs no signal handlers, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        arrived.append(signum)
        if len(arrived) > 1:
            restore()
            signal.raise_signal(signum)

    previous = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    try:
        yield
    finally:
        restore()
        if len(arrived) == 1:
            signal.raise_signal(arrived[0])
