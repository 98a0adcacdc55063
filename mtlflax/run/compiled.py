"""A cache of compiled programs: a second start does not compile what the first has compiled."""

import hashlib
import itertools
import os
import platform
import zlib
from contextlib import suppress
from pathlib import Path

LIMIT = 2 << 30  # bytes
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how a file of that format begins


def keep() -> None:
    """Have JAX keep what it compiles in `$MTLFLAX_CACHE/compiled` (default: ~/.cache/mtlflax), of 2 GiB at most.

    Nothing is changed where JAX's own variables JAX_COMPILATION_CACHE_DIR or JAX_ENABLE_COMPILATION_CACHE are set.
    Machines with other processors, which cannot run each other's programs, have folders of their own. A folder that
    cannot be written is no cache, and no error.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or "JAX_ENABLE_COMPILATION_CACHE" in os.environ:
        return
    import jax  # here: --help answers without it

    base = Path(os.environ.get("MTLFLAX_CACHE") or Path.home() / ".cache" / "mtlflax").expanduser()
    folder = base / "compiled" / _processor()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            drop_damaged(folder)
            trim(folder, LIMIT)
            jax.config.update("jax_compilation_cache_dir", str(folder))


def trim(folder: Path, limit: int) -> None:
    """Delete the oldest programs in a folder above a number of bytes."""
    entries = []
    for path in folder.glob("*-cache"):
        with suppress(OSError):  # another process has deleted it
            entries.append((path.stat(), path))
    entries.sort(key=lambda entry: entry[0].st_mtime, reverse=True)
    sizes = itertools.accumulate(status.st_size for status, _ in entries)
    for (_, path), size in zip(entries, sizes, strict=True):
        if size > limit:
            path.unlink(missing_ok=True)


def drop_damaged(folder: Path) -> None:
    """Delete the programs in a folder that were cut off when they were written, by `kill -9` or a full disk.

    JAX would compile them anew at every start, and never write them again. Looked at is what was written since this was
    called last. Of the two formats of JAX, programs compressed by zstandard are not looked at.
    """
    marker = folder / "checked"
    with suppress(OSError):
        since = marker.stat().st_mtime if marker.exists() else 0.0
        marker.touch()
        for path in folder.glob("*-cache"):
            if path.stat().st_mtime >= since and not _is_whole(path.read_bytes()):
                path.unlink(missing_ok=True)


def _is_whole(data: bytes) -> bool:
    if data[:4] == _ZSTANDARD:
        return True
    try:
        zlib.decompress(data)
    except zlib.error:
        return False
    return True


def _processor() -> str:
    """Tell processors apart by what they can do."""
    flags = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
