"""The one exception that stands for a user's mistake, and how other people's exceptions are told."""

import sysconfig
import traceback
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


class UserError(Exception):
    """Something the user gave is wrong: a path, a file, a key, a value.

    The message says what is wrong, where, and what to do. Command lines print it without a traceback and exit with a
    code that is not 0.
    """


def one_line(error: BaseException) -> str:
    """Return what an exception says, in one line and without the quotes that a KeyError adds."""
    while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps one kind in another
        error = error.args[0]
    text = str(error.args[0] if error.args and isinstance(error, KeyError | AttributeError) else error)
    while text[:1] in ("'", '"') and text[-1] == text[0] not in text[1:-1]:  # a key, which ml_collections quotes twice
        text = text[1:-1]
    return ". ".join(line.strip().removesuffix(".") for line in text.splitlines() if line.strip())


def describe(error: BaseException) -> str:
    """Return an exception in one line: its kind, its message, and the line of the user's own code that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((_PACKAGE, *_LIBRARIES, "<"))]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    plain = isinstance(error, ValueError | TypeError) and not own
    return one_line(error) if plain else f"{type(error).__name__}: {one_line(error)}{where}"
