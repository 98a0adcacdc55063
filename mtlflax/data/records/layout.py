"""How a frame's fields become a record of bytes, and back."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from mtlflax.data.source import Depth, Field, Sample

# stored code → value: (scale, offset) of units that files of 16 bits are in. 0 stays 0, "no measurement".
_CODES = {
    "disparity / 65535": (1 / 65535, 0.0),
    "disparity × 256 + 1": (1 / 256, -1 / 256),
    "1/256": (1 / 256, 0.0),
    "1/1000": (1 / 1000, 0.0),
    "1/100": (1 / 100, 0.0),
    "1/5000": (1 / 5000, 0.0),
}
PLAIN = ""


def decode(codes: np.ndarray, coding: str) -> np.ndarray:
    """Return the float32 values that uint16 codes stand for; 0 stands for 0."""
    if coding == "disparity / 65535":  # as the table has it, and four times as fast
        return codes.astype(np.float32) / np.float32(65535)
    return _table(coding).take(codes)


@functools.cache
def _table(coding: str) -> np.ndarray:
    """The value of each code, rounded as the readers of such files round it."""
    codes, (scale, offset) = np.arange(65536), _CODES[coding]
    table = (codes * scale + offset).astype(np.float32)
    if coding == "disparity / 65535":
        table = codes.astype(np.float32) / np.float32(65535)
    table[0] = 0
    return np.maximum(table, 0)


def encode(values: np.ndarray, coding: str) -> np.ndarray | None:
    """Return uint16 codes that stand for exactly these float32 values; None if there are none."""
    scale, offset = _CODES[coding]
    if not np.isfinite(values).all():
        return None
    codes = np.where(values > 0, np.rint((values.astype(np.float64) - offset) / scale), 0)
    if codes.max(initial=0) > 65535 or codes.min(initial=0) < 0:
        return None
    found = codes.astype(np.uint16)
    return found if np.array_equal(decode(found, coding), values) else None


def coding_of(field: Field, frames: Sequence[np.ndarray]) -> str:
    """Return how some frames of a field can be stored exactly in 16 bits, or `PLAIN`: as they are declared."""
    if isinstance(field, Depth) and field.dtype == "float32":
        for coding in _CODES:
            if all(encode(values, coding) is not None for values in frames):
                return coding
    return PLAIN


class InexactError(Exception):
    """A frame has values that cannot be stored as it is laid out."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a field lies in a record."""

    name: str
    dtype: str  # as stored
    shape: tuple[int, ...]
    coding: str
    start: int  # byte

    @property
    def length(self) -> int:
        """In bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Layout:
    """The fields of a record, one behind the other."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, fields: Mapping[str, Field], size: tuple[int, int], codings: Mapping[str, str]) -> Self:
        """Lay out fields for frames of size (H, W)."""
        entries, start = [], 0
        for name, field in fields.items():
            coding = codings.get(name, PLAIN)
            entries.append(Entry(name, "uint16" if coding else field.dtype, field.shape(size), coding, start))
            start += entries[-1].length
        return cls(tuple(entries))

    @property
    def length(self) -> int:
        """Of a record, in bytes."""
        return self.entries[-1].start + self.entries[-1].length

    def pack(self, sample: Sample) -> bytes:
        """Return the record of a sample that is as its fields declare.

        InexactError if it cannot be stored exactly, ValueError for one of another size.
        """
        parts = []
        for entry in self.entries:
            value = np.asarray(sample[entry.name])
            if value.shape != entry.shape:
                shapes = f"{list(value.shape)}, and {list(entry.shape)} in others"
                raise ValueError(f"frame {sample['name']!r}: {entry.name} is {shapes}: set data.size")
            stored = encode(value, entry.coding) if entry.coding else value
            if stored is None:
                raise InexactError(entry.name)
            parts.append(np.ascontiguousarray(stored).tobytes())
        return b"".join(parts)

    def unpack(self, record: bytearray) -> dict[str, Any]:
        """Return the fields of a record; arrays that are stored as they are lie in its memory."""
        fields: dict[str, Any] = {}
        for entry in self.entries:
            count = int(np.prod(entry.shape, dtype=np.int64))
            value = np.frombuffer(record, entry.dtype, count, entry.start).reshape(entry.shape)
            value = decode(value, entry.coding) if entry.coding else value
            fields[entry.name] = value if entry.shape else value[()]
        return fields

    def to_json(self) -> list[dict[str, Any]]:
        """Return the layout for a manifest."""
        return [dataclasses.asdict(entry) for entry in self.entries]

    @classmethod
    def from_json(cls, content: list[dict[str, Any]]) -> Self:
        """Return what `to_json` gave."""
        return cls(tuple(Entry(**entry | {"shape": tuple(entry["shape"])}) for entry in content))
