"""Samples as their fields declare them: checked, completed with "unknown", padded and stacked to batches."""

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mtlflax.data.source import Field, Image, Labels, Sample
from mtlflax.errors import UserError

Batch = dict[str, Any]


class Frames(Protocol):
    """Samples by index: a source, or something between a source and the loader."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Checked:
    """A source whose samples hold exactly the fields asked for, each as it is declared, and its name.

    Samples are checked before they are augmented, so that the error names the frame instead of coming from OpenCV. A
    source whose attribute `checked` is True holds what has been checked when it was made, with all of its fields. All
    fields have the size of the image, or those that are no images have `truth_size`, (H, W).
    """

    def __init__(self, source: Frames, fields: Mapping[str, Field], truth_size: tuple[int, int] | None = None):
        self._source, self._fields, self._truth_size = source, fields, truth_size

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        if getattr(self._source, "checked", False) and self._truth_size is None:
            size = _size(sample, self._fields)
            known = {name: sample[name] if name in sample else _unknown(f, size) for name, f in self._fields.items()}
            return {**known, "name": sample["name"]}
        if not isinstance(sample, Mapping):
            raise UserError(f"frame {index} is a {type(sample).__name__}, not a dict of its fields and `name`")
        if not isinstance(sample.get("name"), str):
            raise UserError(f"frame {index} has no name: a sample holds its fields and a string `name`")
        for name, field in self._fields.items():
            if isinstance(field, Image) and name not in sample:
                raise UserError(f"frame {sample['name']!r} has no {name}")
        size = _size(sample, self._fields)
        values = {}
        for name, field in self._fields.items():
            values[name] = _value(sample, name, field, size if isinstance(field, Image) else self._truth_size or size)
        return {**values, "name": sample["name"]}


class Readable:
    """A source that replaces each frame that cannot be read by the next one that can, and names the bad frame once.

    With `on_error` "raise" it is the source as it is. A frame cannot be read if that raises a UserError, an OSError or
    a ValueError; if none can, that is a UserError.
    """

    def __init__(self, source: Frames, on_error: str = "raise"):
        self.source, self.skips = source, on_error == "skip"
        self._named: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        if not self.skips:
            return self.source[index]
        count = len(self)
        for i in range(index, index + count):
            sample = self.get(i % count)
            if sample is not None:
                return sample
        raise UserError(f"none of {count} frames can be read")

    def get(self, index: int) -> Sample | None:
        """Return a frame, or None, after naming it, if it cannot be read."""
        try:
            return self.source[index]
        except (UserError, OSError, ValueError) as error:
            if not self.skips:
                raise
            if index not in self._named:
                self._named.add(index)
                print(f"NOTE: a frame is left out: {error}", file=sys.stderr, flush=True)
            return None


class Padded:
    """A source as long as a whole number of batches, with masks; what is missing at the end is unknown throughout.

    So are frames that cannot be read, if they are to be skipped.
    """

    def __init__(self, source: Readable, fields: Mapping[str, Field], batch_size: int):
        self._source, self._fields = source, fields
        self._length = math.ceil(len(source) / batch_size) * batch_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        sample = self._source.get(index) if index < len(self._source) else None
        return self._padding if sample is None else {**sample, "mask": np.float32(1)}

    @functools.cached_property
    def _padding(self) -> Sample:
        first = self._source[0]
        unknown = {name: np.full_like(first[name], field.fill) for name, field in self._fields.items()}
        return {**unknown, "name": "", "mask": np.float32(0)}


def stack(fields: Mapping[str, Field], samples: Sequence[Sample]) -> Batch:
    """Return samples as one batch, field name → array [b, ...]; UserError if their sizes differ."""
    sizes = {_size(sample, fields) for sample in samples}
    if len(sizes) > 1:
        raise UserError(f"frames have different sizes ({', '.join(map(str, sorted(sizes)))}): set data.size")
    return {name: np.stack([sample[name] for sample in samples]) for name in fields}


def stack_evaluation(fields: Mapping[str, Field], samples: Sequence[Sample]) -> Batch:
    """The same for samples of `Padded`: with `mask` float32 [b], and `name`, a list of b strings."""
    mask = np.stack([sample["mask"] for sample in samples])
    return {**stack(fields, samples), "mask": mask, "name": [sample["name"] for sample in samples]}


def _size(sample: Sample, fields: Mapping[str, Field]) -> tuple[int, int]:
    """(H, W) of a sample's first field that has pixels: the image."""
    name = next(name for name, field in fields.items() if field.spatial and name in sample)
    shape = np.shape(sample[name])
    if len(shape) < 2:
        raise UserError(f"frame {sample['name']!r}: {name} is {list(shape)}, not [height, width, ...]")
    return shape[0], shape[1]


def _value(sample: Sample, name: str, field: Field, size: tuple[int, int]) -> np.ndarray:
    """A sample's field, checked against its declaration; "unknown" throughout where the sample lacks it."""
    if name not in sample:
        return _unknown(field, size)
    value = np.asarray(sample[name])
    if value.shape != field.shape(size) or value.dtype != field.dtype:
        raise UserError(
            f"frame {sample['name']!r}: {name} is {value.dtype} {list(value.shape)}, but the data set declares "
            f"{field.dtype} {list(field.shape(size))}"
        )
    if isinstance(field, Labels) and field.classes:
        surplus = (value != field.ignore) & ((value < 0) | (value >= len(field.classes)))
        if surplus.any():
            raise UserError(
                f"frame {sample['name']!r}: {name} holds {value[surplus][0]}, which is neither a class (0 to "
                f"{len(field.classes) - 1}) nor {field.ignore}, no label"
            )
    return value


def _unknown(field: Field, size: tuple[int, int]) -> np.ndarray:
    return np.full(field.shape(size), field.fill, field.dtype)
