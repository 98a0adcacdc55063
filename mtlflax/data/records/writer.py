"""Make a cache: read every frame of a source once, and write its record."""

import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mtlflax.data import describe, field_json
from mtlflax.data.records.layout import InexactError, Layout, coding_of
from mtlflax.data.records.reader import MANIFEST, VERSION
from mtlflax.data.samples import Checked, Readable
from mtlflax.data.source import Source
from mtlflax.errors import UserError
from mtlflax.files import lock, plain_errors, write_text

BLOCK = 64  # frames, of a split: what is lost if the process is killed
_LOCK, _BEGUN, _BLOCKS, _LAYOUT = "lock", "begun.json", "blocks", "layout.json"


def write(
    folder: Path,
    sources: Mapping[str, Source],
    key: Mapping[str, Any],
    *,
    threads: int = 4,
    on_error: str = "raise",
    seen: Callable[[], object] = lambda: None,
) -> None:
    """Write a cache of some splits; one that was begun with the same key is finished, and a finished one left alone.

    Args:
        folder: where it is made; another process that makes it is waited for.
        sources: split → source, which is prepared.
        key: what the cache is of.
        threads: that read frames.
        on_error: at a frame that cannot be read, "raise", or "skip": the cache keeps why, and reading it raises that.
        seen: called after each frame.

    Raises:
        UserError: a frame cannot be read (all of them, with "skip"), or the folder not be written, or holds something
            else.
    """
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with plain_errors(folder), lock(folder / _LOCK, wait=f"waiting for another process that makes {folder}"):
        if (folder / MANIFEST).exists():
            _clear(folder)
            return
        _begin(folder, json.dumps(key, sort_keys=True), sources)
        splits = {name: _split(folder, name, source, threads, on_error, seen) for name, source in sources.items()}
        manifest = {"version": VERSION, "key": dict(key), "splits": splits}
        write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")  # from here on it is a cache
        _clear(folder)


def _begin(folder: Path, key: str, sources: Mapping[str, Source]) -> None:
    """Keep what was begun with the same key, and remove what was begun with another."""
    begun = folder / _BEGUN
    ours = {_LOCK, _BEGUN, _BLOCKS, *(f"{name}.records" for name in sources)}
    if strange := [path.name for path in folder.iterdir() if path.name not in ours and not path.name.startswith(".")]:
        raise UserError(f"{folder}: holds {strange[0]}: give an empty folder for the cache")
    if not begun.exists() or begun.read_text() != key:
        for name in sources:
            _discard(folder, name)
        write_text(begun, key)


def _clear(folder: Path) -> None:
    """Remove what is not needed any more; the process may be killed before it has."""
    shutil.rmtree(folder / _BLOCKS, ignore_errors=True)
    (folder / _BEGUN).unlink(missing_ok=True)


def _discard(folder: Path, name: str) -> None:
    (folder / f"{name}.records").unlink(missing_ok=True)
    shutil.rmtree(folder / _BLOCKS / name, ignore_errors=True)


def _split(
    folder: Path, name: str, source: Source, threads: int, on_error: str, seen: Callable[[], object]
) -> dict[str, Any]:
    """Write a split's records, and return its part of the manifest."""
    checked = Checked(source, source.fields)
    frames = Readable(checked, on_error)
    examples = [frames[0]]
    begun = folder / _BLOCKS / name / _LAYOUT
    while True:
        if begun.exists():  # what is there already, by a process that was killed, was written with it
            layout = Layout.from_json(json.loads(begun.read_text()))
        else:
            values = {key: [np.asarray(sample[key]) for sample in examples] for key in source.fields}
            codings = {key: coding_of(field, values[key]) for key, field in source.fields.items()}
            height, width = examples[0]["image"].shape[:2]
            layout = Layout.of(source.fields, (height, width), codings)
            begun.parent.mkdir(parents=True, exist_ok=True)
            write_text(begun, json.dumps(layout.to_json()))
        try:
            checksums, unreadable = _blocks(folder, name, checked, layout, threads, on_error, seen)
        except _FrameError as error:  # its depth does not fit the codes of those before
            examples.append(frames[error.index])
            _discard(folder, name)  # the layout, too
            continue
        return {
            "frames": describe(source),
            "names": list(source.names),
            "fields": field_json.to_json(source.fields),
            "layout": layout.to_json(),
            "block": BLOCK,
            "checksums": checksums,  # CRC-32 of each block of records
            "unreadable": unreadable,  # number of a frame → why it could not be read
        }


class _FrameError(Exception):
    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def _blocks(
    folder: Path,
    name: str,
    frames: Checked,
    layout: Layout,
    threads: int,
    on_error: str,
    seen: Callable[[], object],
) -> tuple[list[int], dict[str, str]]:
    """Write the blocks that are not there yet; return the checksums of all, and which frames could not be read."""
    path, done = folder / f"{name}.records", folder / _BLOCKS / name
    broken: dict[int, str] = {}

    def record(index: int) -> bytes:
        try:
            return layout.pack(frames[index])
        except InexactError as error:
            raise _FrameError(index) from error
        except (UserError, OSError, ValueError) as error:
            if on_error != "skip":
                raise
            broken[index] = str(error)
            print(f"NOTE: a frame is left out: {error}", file=sys.stderr, flush=True)
            return bytes(layout.length)

    checksums: list[int] = []
    unreadable: dict[str, str] = {}
    with open(path, "r+b" if path.exists() else "w+b") as file, ThreadPoolExecutor(max(1, threads)) as pool:
        for start in range(0, len(frames), BLOCK):
            numbers, mark = range(start, min(start + BLOCK, len(frames))), done / str(start)
            if not mark.exists():
                block = bytearray()
                for part in pool.map(record, numbers):
                    block += part
                    seen()
                file.seek(start * layout.length)
                file.write(block)
                file.flush()
                os.fsync(file.fileno())  # before the mark, which says that it is there
                reasons = {str(number): broken[number] for number in numbers if number in broken}
                write_text(mark, json.dumps({"checksum": zlib.crc32(block), "unreadable": reasons}))
            else:
                for _ in numbers:
                    seen()
            written = json.loads(mark.read_text())
            checksums.append(written["checksum"])
            unreadable |= written["unreadable"]
    return checksums, unreadable
