"""Where a data set lies: folders of this machine, or of a bucket (`gs://`, `s3://`, `az://`, `hf://`).

Buckets are read by etils.epath, whose paths have the methods of `pathlib.Path`; it uses fsspec, which needs a package
for each kind: gcsfs, s3fs, adlfs, huggingface_hub. Asking a bucket, or a network disk, whether a file exists takes as
long as listing its folder, so folders are listed.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from mtlflax.errors import UserError
from mtlflax.files import plain_read_errors

_SCHEMES = ("gs://", "s3://", "az://", "hf://")


def make(text: str | os.PathLike[str]) -> Path:
    """Return a path as a user gives it: absolute, with ~ expanded; UserError for an address of an unknown kind.

    A path in a bucket is an `etils.epath.Path`; it pickles, and can be read by several threads and processes.
    """
    given = os.fspath(text)
    if given.startswith(_SCHEMES):
        from etils import epath

        return cast(Path, epath.Path(given))
    if "://" in given:
        raise UserError(f"{given}: give a folder, or an address that begins with {', '.join(_SCHEMES)}")
    return Path(given).expanduser().absolute()


def is_remote(path: Path) -> bool:
    """Whether a path is in a bucket."""
    return str(path).startswith(_SCHEMES)


def below(root: Path, text: str) -> Path:
    """Return the path of a file that is given below a root, or by a path of its own if there is no such file."""
    given = Path(text).expanduser()
    if text.startswith(_SCHEMES) or given.is_absolute():
        return make(text)
    return root / text if is_file(root / text) else make(text)


def is_dir(path: Path) -> bool:
    """Whether there is such a folder; UserError if it cannot be asked."""
    with plain_read_errors(path):
        return path.is_dir()


def is_file(path: Path) -> bool:
    """Whether there is such a file; UserError if it cannot be asked."""
    with plain_read_errors(path):
        return path.is_file()


def names(folder: Path) -> list[str]:
    """Return what a folder holds, in any order: nothing if it is not there; UserError if it cannot be listed."""
    with plain_read_errors(folder):
        try:
            if is_remote(folder):
                return [entry.name for entry in folder.iterdir()]
            return os.listdir(folder)  # noqa: PTH208 (iterdir makes a Path of each of thousands)
        except (FileNotFoundError, NotADirectoryError):
            return []


def files(root: Path, folder: Path, *, deep: bool) -> list[str]:
    """Return the files in a folder, or at any depth below it, as sorted paths below `root`; hidden ones are left out.

    Links to folders are followed. UserError if a bucket cannot be listed; folders that cannot be are left out.
    """
    prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    with plain_read_errors(folder):
        return sorted(prefix + path for path in _walk(folder, deep))


def _walk(folder: Path, deep: bool) -> Iterator[str]:
    """The files as paths below a folder, but for hidden ones."""
    if is_remote(folder):
        walked: Any = folder.walk()  # type: ignore[attr-defined]  # Path has it from Python 3.12 on
    else:
        walked = os.walk(folder, followlinks=True)
    top = None
    for where, folders, inside in walked:
        # Not relative to `folder` itself: epath's walk gives paths without the gs:// of where it began.
        top = Path(where) if top is None else top
        relative = Path(where).relative_to(top)
        # fsspec goes into all folders, whatever is left in this list.
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep else []
        if not is_remote(folder):
            folders[:] = [name for name in folders if not _leads_back(Path(where), name)]
        if not any(part.startswith(".") for part in relative.parts):
            yield from ((relative / name).as_posix() for name in inside if name and not name.startswith("."))
        if not deep:
            return


def _leads_back(where: Path, name: str) -> bool:
    """Whether a folder is a link to one that it lies in: it would be gone through forever."""
    path = where / name
    return path.is_symlink() and where.resolve().is_relative_to(path.resolve())
