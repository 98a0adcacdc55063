"""Read frames from a cache: a `Source`."""

import json
import os
from pathlib import Path
from typing import Any, Self

from mtlflax.data import field_json
from mtlflax.data.full_truth import with_full_truth
from mtlflax.data.records.layout import Layout
from mtlflax.data.source import Sample, Source
from mtlflax.errors import UserError
from mtlflax.files import read_bytes

MANIFEST = "manifest.json"
VERSION = 1


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a cache's manifest; UserError if there is none, or it is of another version."""
    path = folder / MANIFEST
    try:
        content = json.loads(read_bytes(path))
        if content["version"] != VERSION:
            raise ValueError(f"it is of version {content['version']}, not {VERSION}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no manifest of a cache ({error}): remove the folder, and make it anew") from error
    return content


class Records:
    """The frames of a split as a cache holds them.

    Constructing it opens no file but the manifest. UserError if the records are missing or not whole.
    """

    checked = True  # see `samples.Checked`

    def __init__(self, folder: Path, split: str, original: Source | None = None) -> None:
        """`original` is what the cache was made from, for truth at full size."""
        content = read_manifest(folder)["splits"].get(split)
        if content is None:
            raise UserError(f"{folder}: has no split {split}")
        self._path, self._original = folder / f"{split}.records", original
        self._layout = Layout.from_json(content["layout"])
        self.fields = field_json.from_json(content["fields"])
        self.names: list[str] = content["names"]
        self._unreadable: dict[str, str] = content.get("unreadable", {})
        self._file: tuple[int, int] | None = None  # process, descriptor
        wanted = len(self.names) * self._layout.length
        found = self._path.stat().st_size if self._path.exists() else 0
        if found != wanted:
            raise UserError(f"{self._path}: has {found} of {wanted} bytes: remove {folder}, and make it anew")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self.names):
            raise IndexError(f"frame {index} of {len(self.names)}")
        if reason := self._unreadable.get(str(index)):
            raise UserError(f"{reason} (when the cache {self._path.parent} was made)")
        length = self._layout.length
        record = bytearray(length)
        if os.preadv(self._descriptor(), [record], index * length) != length:
            raise UserError(f"{self._path}: cannot be read to its end: remove it, and make it anew")
        return self._layout.unpack(record) | {"name": self.names[index]}

    def with_full_truth(self) -> Source | None:
        """The original with its truth at its own size, if it has that: a cache has it at training size alone."""
        return with_full_truth(self._original) if self._original is not None else None

    def _descriptor(self) -> int:
        """The open file: of this process, as one that was inherited would share its end."""
        if self._file is None or self._file[0] != os.getpid():
            try:
                self._file = (os.getpid(), os.open(self._path, os.O_RDONLY))
            except OSError as error:
                raise UserError(f"{self._path}: cannot be opened ({error.strerror})") from error
        return self._file[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._file[0] == os.getpid():
            os.close(self._file[1])
            self._file = None
