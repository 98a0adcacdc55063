"""What was counted in each frame of an evaluation: kept with a run, so that runs can be compared frame by frame."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtlflax.errors import UserError
from mtlflax.files import read_bytes, write_bytes


class Frames(NamedTuple):
    """The frames of a set, and what each task's metrics are read from."""

    names: tuple[str, ...]  # N of them, in the order of the source
    sums: dict[str, dict[str, np.ndarray]]  # task → key → [N, ...], float64 or integers

    def total(self, times: np.ndarray | Sequence[int] | None = None) -> dict[str, dict[str, np.ndarray]]:
        """Add up the frames, each as often as `times` says, integers [N]; None: once.

        Returns task → key → [...], for `Task.metrics`.
        """
        if times is None:
            return {task: {key: x.sum(axis=0) for key, x in sums.items()} for task, sums in self.sums.items()}
        counts = np.asarray(times)
        return {task: {key: np.tensordot(counts, x, 1) for key, x in sums.items()} for task, sums in self.sums.items()}


def write(path: Path, frames: Frames) -> None:
    """Write the frames as a compressed `.npz`, whole or not at all; UserError if it cannot be written."""
    arrays: dict[str, Any] = {f"{task}/{key}": x for task, sums in frames.sums.items() for key, x in sums.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, names=np.array(frames.names), **arrays)
    write_bytes(path, buffer.getvalue())


def read(path: Path) -> Frames:
    """Read what `write` wrote; UserError if it is not there, or damaged."""
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = tuple(str(name) for name in arrays.pop("names"))
        sums: dict[str, dict[str, np.ndarray]] = {}
        for name, x in arrays.items():
            task, _, key = name.partition("/")
            if len(x) != len(names):
                raise ValueError(f"{name} has {len(x)} rows for {len(names)} frames")
            sums.setdefault(task, {})[key] = x
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return Frames(names, sums)
