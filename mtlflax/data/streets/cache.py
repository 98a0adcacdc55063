"""Rendered frames kept on disk: rendered once by several processes, then memory-mapped.

A folder per (renderer, split, size, seed, length) holds `frames.npy`, one record per frame. While frames are being
rendered it holds `frames.part` and `done.part`, one byte per frame: a run that is killed leaves them, and the next one
resumes from there. `lock` keeps two runs from rendering the same frames; the second waits. Any folder that no run uses
may be deleted, such as those of older renderers.
"""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import mtlflax
from mtlflax.data.streets import version
from mtlflax.data.streets.progress import Progress
from mtlflax.errors import UserError
from mtlflax.files import lock

CHUNK = 16  # frames that a worker renders before it reports


class Key(NamedTuple):
    """What the pixels of a cache depend on."""

    split: str
    size: tuple[int, int]
    seed: int
    length: int

    @property
    def folder(self) -> str:
        """The name of the folder in the cache."""
        height, width = self.size
        return f"{version.digest()}_{self.split}_{height}x{width}_seed{self.seed}_{self.length}"

    @property
    def record(self) -> np.dtype:
        """The layout of one frame."""
        fields: list[Any] = [
            ("image", np.uint8, (*self.size, 3)),
            ("codes", np.uint16, self.size),
            ("label", np.uint8, self.size),
            ("focal_baseline", np.float32),
        ]
        return np.dtype(fields)


def default_folder() -> Path:
    """Return `$MTLFLAX_CACHE/streets`, else `$XDG_CACHE_HOME/mtlflax/streets`, else that in ~/.cache."""
    own, common = os.environ.get("MTLFLAX_CACHE"), os.environ.get("XDG_CACHE_HOME")
    base = Path(own) if own else Path(common or "~/.cache") / "mtlflax"
    return base.expanduser() / "streets"


class Cache:
    """The frames of one key, read as they are needed; can be pickled and used from several threads."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._frames = np.load(path, mmap_mode="r")
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): delete it, and it is rendered again") from error

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> np.void:
        """Return a record of `Key.record`."""
        return self._frames[index]

    def __getstate__(self) -> Path:
        return self._path

    def __setstate__(self, path: Path) -> None:
        self._path = path
        self._frames = np.load(path, mmap_mode="r")


def open_or_render(base: Path, key: Key) -> Cache:
    """Opens the cache of a key, rendering first what is not there.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    folder = base / key.folder
    path = folder / "frames.npy"
    if not path.exists():
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            busy = f"{folder}: another run is rendering these frames; waiting for it"
            with lock(folder / "lock", wait=busy):
                if not path.exists():
                    _render(folder, key)
    return Cache(path)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: frames cannot be kept here ({error.strerror}): free some space, or set"
            " MTLFLAX_CACHE to a folder that can be written"
        ) from error


def _render(folder: Path, key: Key) -> None:
    """Renders all frames of a key that are not done yet; the caller holds the lock."""
    frames, done = folder / "frames.part", folder / "done.part"
    offset = _create(frames, done, key)
    finished = np.fromfile(done, np.uint8)
    missing = [i for i in range(0, key.length, CHUNK) if not finished[i : i + CHUNK].all()]
    what = f"rendering streets {key.split} {key.size[0]}x{key.size[1]} into {folder}"
    count = key.length - sum(min(CHUNK, key.length - i) for i in missing)
    workers = min(len(missing), _processors())
    starts, taking = iter(missing), threading.Lock()
    with Progress(what, key.length, count) as progress:

        def work() -> None:
            with _worker(frames, offset, key) as worker:
                while True:
                    with taking:
                        start = next(starts, None)
                    if start is None:
                        return
                    stop = min(start + CHUNK, key.length)
                    _ask(worker, folder, start, stop)
                    with taking:
                        with open(done, "r+b") as file:
                            file.seek(start)
                            file.write(b"\1" * (stop - start))
                        progress.update(stop - start)

        with ThreadPoolExecutor(max(workers, 1)) as pool:
            for future in [pool.submit(work) for _ in range(workers)]:
                try:
                    future.result()
                except BaseException:
                    starts = iter(())  # the others stop after their chunk
                    raise
    frames.replace(folder / "frames.npy")
    done.unlink()


def _create(frames: Path, done: Path, key: Key) -> int:
    """Create the two unfinished files unless they are there; return where the records begin."""
    array = {"descr": np.lib.format.dtype_to_descr(key.record), "fortran_order": False}
    with open(frames, "a+b") as file:
        old = file.tell() > 0 and done.exists() and done.stat().st_size == key.length
        if not old:
            file.truncate(0)
            np.lib.format.write_array_header_2_0(file, array | {"shape": (key.length,)})
            file.flush()
            offset = file.tell()
            total = offset + key.length * key.record.itemsize
            # Full disks are found out now: a memory map would end the process later.
            try:
                if not hasattr(os, "posix_fallocate"):
                    raise OSError(errno.EOPNOTSUPP, "macOS has no such call")
                os.posix_fallocate(file.fileno(), 0, total)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    frames.unlink()
                    raise
                os.truncate(frames, total)
            done.write_bytes(bytes(key.length))
            return offset
        file.seek(0)
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_2_0(file)
        return file.tell()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _worker(frames: Path, offset: int, key: Key) -> Iterator[subprocess.Popen[str]]:
    """Starts a process that renders. It is a fresh interpreter: forking under JAX's threads can hang."""
    package = str(Path(mtlflax.__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    single = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    arguments = [frames, offset, key.split, *key.size, key.seed, key.length]
    command = [sys.executable, "-P", "-m", "mtlflax.data.streets.worker", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | single, **pipes) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()  # which ends it


def _ask(worker: "subprocess.Popen[str]", folder: Path, start: int, stop: int) -> None:
    """Has a worker render the frames from `start` to `stop`."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(f"{start} {stop}\n")
        worker.stdin.flush()
        answer = worker.stdout.readline().strip()
    except BrokenPipeError:
        answer = ""
    if answer.startswith("errno "):
        number = int(answer.split()[1])
        raise OSError(number, os.strerror(number), str(folder))
    if answer != "done":
        raise UserError(
            f"a process that rendered into {folder} ended (exit code {worker.wait()}): was it killed, or memory short?"
            " The same command goes on where it was"
        )
