"""Read files, write them whole or not at all, lock them, and report disk errors in plain words."""

import errno
import json
import math
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtlflax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a pipe waits for who writes to it
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def plain_errors(what: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder and the like into a `UserError` that names `what`."""
    try:
        yield
    except OSError as error:
        cure = "Free some space, or choose another folder." if error.errno in _NO_SPACE else "Choose another folder."
        where = "" if error.filename in (None, str(what)) else f" ({error.filename})"
        raise UserError(f"cannot write {what}: {error.strerror or error}{where}\n{cure}") from error


@contextmanager
def plain_read_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file or a folder is read into a `UserError` that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error or type(error).__name__})") from error
    except Exception as error:
        if isinstance(path, Path) or isinstance(error, UserError):
            raise
        # In a bucket (`mtlflax.data.paths`): each service has errors of its own for a missing login and the like.
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; UserError if it cannot be read, or is a pipe or a device, which may never end."""
    with plain_read_errors(path):
        if not isinstance(path, Path):  # in a bucket
            return path.read_bytes()
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path}: cannot be read (it is no file)")
            return file.read()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: under a temporary name in the same folder, which is created if needed, then renamed.

    On an error, a UserError, no partial file is left, and a file that was there stays as it was.
    """
    # Not made from the file's name, which may already be as long as the file system allows.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    with plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # without it, a power failure after the rename may leave an empty file
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def check_writable(path: Path) -> None:
    """UserError if a file cannot be written there: its folder is created, and written to."""
    with plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder, give a file")
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))  # names of files that are no UTF-8


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as `write_bytes` does; numbers that are not finite become null, as JSON has none."""
    content = {key: finite_or_none(value) for key, value in content.items()}
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


@contextmanager
def lock(path: Path, *, wait: str = "") -> Iterator[None]:
    """Hold a lock file, created if needed, during the block; the system releases it however the process ends.

    Where files cannot be locked (Windows, some network file systems), print a note and go on without. If another
    process holds it, print `wait` and wait for it; without `wait`, raise BlockingIOError.
    """
    with open(path, "w") as file:
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "this system has no file locks")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                print(wait, file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        except BlockingIOError:
            raise
        except OSError as error:
            note = f"NOTE: {path} cannot be locked ({error.strerror}): make sure that no other process writes here"
            print(note, file=sys.stderr, flush=True)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file; False where files cannot be locked, or there is none."""
    try:
        with open(path) as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def finite_or_none(value: Any) -> Any:
    """Return the value, or None for a float that is NaN or infinite: JSON has no number for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
