"""What Orbax's errors mean, and how to hear of them once."""

import errno
import functools
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

_OS_ERROR = re.compile(r"\[os_error_code='(\d+)'")  # among the remarks, in any order, that end TensorStore's messages
# What a disk, or the network in front of it, may have recovered from in a while.
_PASSING = {getattr(errno, name) for name in ["EIO", "EAGAIN", "EBUSY", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN"]}
_PASSING |= {getattr(errno, name) for name in ["ECONNRESET", "ECONNABORTED", "ENETUNREACH", "EHOSTUNREACH"]}


@functools.cache
def report_once() -> None:
    """Silence what Orbax prints beside the errors that it raises.

    It logs them from several threads. The first one also closes its event loop: what still waits there, and
    TensorStore's threads when they end, each print a traceback, through asyncio's logger or `sys.unraisablehook`.
    """
    python_hook = sys.unraisablehook

    def left_over(error: BaseException | None) -> bool:
        said = str(error)
        return said == "Event loop is closed" or "tensorstore" in said.lower() or bool(_OS_ERROR.search(said))

    def hook(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine that is deleted before its end
        if not left_over(unraisable.exc_value) and not (code and "orbax" in code.co_filename):
            python_hook(unraisable)

    def useful(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname and not (record.exc_info and left_over(record.exc_info[1]))

    sys.unraisablehook = hook
    for name in ("absl", "asyncio", "concurrent.futures"):
        logging.getLogger(name).addFilter(useful)


class Refusal(NamedTuple):
    """Why the operating system refused."""

    number: int  # errno; 0 if it is not known
    reason: str

    @property
    def passing(self) -> bool:
        """Whether it may be another thing in a while: a disk, or a network, that does not answer."""
        return self.number in _PASSING


def refusal(error: BaseException | None) -> Refusal | None:
    """Return why the operating system refused, or None if it did not; a file that is missing is no refusal."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            return Refusal(error.errno or 0, error.strerror or str(error))
        if (found := _OS_ERROR.search(str(error))) and int(found[1]) != errno.ENOENT:
            return Refusal(int(found[1]), os.strerror(int(found[1])))
        error = error.__cause__
    return None


def difference(path: Path, like: Any, partial: bool) -> str | None:
    """Return the first difference between a saved state and what is to be restored; None if there is none."""
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            saved = checkpointer.metadata(path).item_metadata.tree
    except Exception:  # as in restoring: Orbax raises errors of many kinds over damaged files
        return None
    there, here = _shapes(saved), _shapes(like)
    keys = here.keys() if partial else here.keys() | there.keys()
    absent = "absent"
    differing = [key for key in sorted(keys) if there.get(key, absent) != here.get(key, absent)]
    if not differing:
        return None
    key = differing[0]
    return f"{key} is {there.get(key, absent)} there, {here.get(key, absent)} here ({len(differing)} differ)"


def _shapes(tree: Any) -> dict[str, str]:
    """Return path → shape, as text, of a state or of what Orbax has recorded of one."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): str(tuple(leaf.shape)) for path, leaf in leaves}
