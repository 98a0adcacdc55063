"""What all commands share: how they parse flags, expand paths, print, and report errors."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from mtlflax.errors import UserError
from mtlflax.run import signals


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and reports a mistake as one line, with exit code 2."""

    def __init__(self, module: str, description: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(f"python -m {module}", description=description, formatter_class=formatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print the mistake and exit."""
        self.exit(2, f"error: {message} (--help lists the flags)\n")


def path(text: str) -> Path:
    """Return a path given on the command line, with ~ expanded: no shell does that after `=` or inside quotes.

    It is of this machine: an address, such as gs://bucket/run, is refused, since it would become a folder `gs:`.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is an address: give a path of this machine")
    expanded = os.path.expanduser(text)  # noqa: PTH111 (Path.expanduser raises for a user that does not exist)
    if not text or expanded.startswith("~"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a path" + (": there is no such user" if text else ""))
    return Path(expanded)


def leave_at_once(error: BaseException) -> NoReturn:
    """End the process with the message and the exit code of an error, as `run` does, and wait for nothing."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif not isinstance(error, KeyboardInterrupt | SystemExit):
        traceback.print_exception(error)
    code = error.code if isinstance(error, SystemExit) else 130 if isinstance(error, KeyboardInterrupt) else 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 1)


def outlive_readers() -> None:
    """Have the process go on when what reads its output has gone, such as `head` or a terminal: it writes to nobody."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, _Outliving(getattr(sys, name)))


class _Outliving:
    """A stream that nobody need read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or do nothing."""
        try:
            return int(self._stream.write(text))
        except BrokenPipeError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush, or do nothing."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._give_up()

    def _give_up(self) -> None:
        nobody = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nobody, self._stream.fileno())
        os.close(nobody)


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Run a command on the process's arguments, and exit.

    The exit code is what `main` returns; 1 for a `UserError`, which is printed without a traceback; 130 for Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ×, … shows ?
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as under nohup
        signal.signal(signal.SIGINT, signals.interrupt)
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # what reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
