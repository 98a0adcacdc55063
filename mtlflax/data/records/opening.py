"""Which cache a config means, whether it fits, and how it is made on the way."""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mtlflax.data import content_options, describe, field_json
from mtlflax.data.full_truth import with_full_truth
from mtlflax.data.records import writer
from mtlflax.data.records.reader import MANIFEST, Records, read_manifest
from mtlflax.data.samples import Checked
from mtlflax.data.source import Sample, Source
from mtlflax.data.wrapped import Wrapped
from mtlflax.errors import UserError

AUTO = "auto"


def key(config: Any, sources: Mapping[str, Source]) -> dict[str, Any]:
    """Return what a cache is of: the data set and its options, the size, the fields, and the names of all frames.

    What is in the files is not looked at: a cache of files that have changed since must be removed.
    """
    options = content_options(config)
    splits = {
        split: {"fields": field_json.to_json(source.fields), "frames": describe(source)}
        for split, source in sources.items()
    }
    content = {
        "name": config.name,
        "root": str(config.root or ""),
        "size": list(config.size),
        "options": {name: value for name, value in options.items() if name not in ("name", "root", "size")},
        "splits": splits,
    }
    return dict(json.loads(json.dumps(content, default=str)))  # as it is read from a manifest


def cached(config: Any, sources: Mapping[str, Source]) -> dict[str, Source]:
    """Return the sources as `config.cache` has them: a folder, or "auto".

    "auto" is a cache below `$MTLFLAX_CACHE` (default: ~/.cache/mtlflax), which `prepare`, or the first access, makes.

    Raises:
        UserError: there is no cache in the folder, or it is of something else.
    """
    wanted = key(config, sources)
    if config.cache == AUTO:
        automatic = _Automatic(wanted, sources, max(1, config.num_threads), config.on_error)
        return {split: Cached(automatic, split) for split in sources}
    folder = Path(config.cache).expanduser()
    if not (folder / MANIFEST).exists():
        raise UserError(
            f"data.cache is {folder}, which holds no cache (no {MANIFEST}): make it by python -m "
            "mtlflax.data.records --config=... --out=DIR, or give auto"
        )
    check(folder, wanted)
    opened: dict[str, Source] = {}
    for split, source in sources.items():
        opened[split] = records = Records(folder, split, source)
        check_frames(folder, records, source)
    return opened


class _Automatic:
    """A cache that is made when it is needed."""

    def __init__(self, wanted: Mapping[str, Any], sources: Mapping[str, Source], threads: int, on_error: str) -> None:
        self._wanted, self.sources, self._threads, self._on_error = wanted, sources, threads, on_error
        base = Path(os.environ.get("MTLFLAX_CACHE") or Path.home() / ".cache" / "mtlflax").expanduser()
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
        self._folder = base / "records" / f"{wanted['name'].replace(':', '.')}_{digest}"

    def open(self, split: str) -> Records:
        if not (self._folder / MANIFEST).exists():
            make(self._folder, self.sources, self._wanted, self._threads, self._on_error)
        check(self._folder, self._wanted)
        records = Records(self._folder, split, self.sources[split])
        check_frames(self._folder, records, self.sources[split])
        return records


class Cached(Wrapped):
    """A split of a data set whose cache is made by `prepare`, or at the first access: a `Source`."""

    checked = True  # see `samples.Checked`

    def __init__(self, automatic: _Automatic, split: str) -> None:
        super().__init__(automatic.sources[split])
        self._automatic, self._split = automatic, split
        self._records: Records | None = None

    def prepare(self) -> None:
        """Make the cache, unless it is there; UserError if it cannot be written, or a frame not be read."""
        if self._records is None:
            with _preparing:
                self._records = self._records or self._automatic.open(self._split)

    def with_full_truth(self) -> Source | None:
        """The original with its truth at its own size, if it has that."""
        return with_full_truth(self._source)

    def __getitem__(self, index: int) -> Sample:
        self.prepare()
        assert self._records is not None
        return self._records[index]


_preparing = threading.Lock()  # several threads may ask for the first frame at once


def make(
    folder: Path, sources: Mapping[str, Source], wanted: Mapping[str, Any], threads: int, on_error: str = "raise"
) -> None:
    """Make a cache, with a bar on a terminal; UserError as from `writer.write`."""
    for source in sources.values():
        if prepare := getattr(source, "prepare", None):
            prepare()
    total = sum(len(source) for source in sources.values())
    print(f"making a cache of {total} frames in {folder}", file=sys.stderr, flush=True)
    with tqdm(total=total, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False, unit="frame") as bar:
        writer.write(folder, sources, wanted, threads=threads, on_error=on_error, seen=bar.update)


def check(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise UserError, saying what differs, if a cache is of something else."""
    there = read_manifest(folder)["key"]
    # The folder may have been moved, and the frames are told by their names.
    for name in ("name", "size"):
        if there.get(name) != wanted[name]:
            raise UserError(f"{folder}: is a cache of data.{name} {there.get(name)}, not {wanted[name]}")
    ours, theirs = wanted["options"], there.get("options", {})
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            shown = _difference({name: theirs.get(name)}, {name: ours.get(name)})
            raise UserError(f"{folder}: is a cache of other data: data.{name} {shown}")
    for split, part in wanted["splits"].items():
        found = there["splits"].get(split)
        if found is None:
            raise UserError(f"{folder}: is a cache without the split {split}")
        for field in found["fields"].keys() | part["fields"].keys():
            mine, cached_one = part["fields"].get(field), found["fields"].get(field)
            if mine != cached_one:
                shown = _difference(cached_one, mine)
                raise UserError(f"{folder}: is a cache of other data: its field {field!r} {shown}")
        if found["frames"] != part["frames"]:
            raise UserError(
                f"{folder}: is a cache of other frames in {split}, or of another class table: {found['frames']}, not "
                f"{part['frames']}"
            )


def check_frames(folder: Path, records: Records, source: Source) -> None:
    """Raise UserError if the first, the middle or the last frame of a cache is not what its source gives now.

    The names of frames are compared anyway; but other files may have them, and files may have been changed.
    """
    if hasattr(source, "prepare"):  # not files: frames are made
        return
    frames = Checked(source, source.fields)
    for index in sorted({0, len(source) // 2, len(source) - 1}):
        try:
            cached_one = records[index]
            now = frames[index]
        except (UserError, OSError, ValueError):  # it is told when it is read
            continue
        for name in source.fields:
            if not np.array_equal(cached_one[name], now[name], equal_nan=np.asarray(now[name]).dtype.kind == "f"):
                now_other = f"{name} of the frame {source.names[index]} is not what its file holds now"
                raise UserError(f"{folder}: is a cache of other data: {now_other}: remove it, and make it anew")


def _difference(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> str:
    if theirs is None or ours is None:
        return "is not in the cache" if theirs is None else "is in the cache alone"
    key = next(key for key in theirs | ours if theirs.get(key) != ours.get(key))
    found, wanted = (json.dumps(field.get(key)) for field in (theirs, ours))
    first = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), 0)
    start = max(0, first - 40)
    return f"has the {key} …{found[start : start + 80]}…, not …{wanted[start : start + 80]}…"
