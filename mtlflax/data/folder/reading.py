"""What the fields of a folder are, and how each is read: kind → options of `config.data.folder.fields.<name>`.

labels: `files`; `classes`: "found" (each value in the files is a class), "cityscapes" (its label ids), a JSON or CSV
    file (see `mtlflax.data.class_table`), or the entries of a table.
depth: `files`; `scale` and `offset`: stored × scale + offset is the depth in `unit`; `unknown`: stored values that are
    no measurement; `least` and `most`: the valid range, in `unit` (`most` 0: no limit); `sparse`: whether few pixels
    are measured.
map: `files`; `channels`; `unknown`: the value where nothing is known; `mirror`: signs when left and right are
    exchanged.
number: `value`: the same for all frames, unless a list says otherwise.

`kind` is needed for fields that are not called segmentation (labels) or depth. An empty `files` means that there are
none.
"""

import ast
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mtlflax.data import class_table, labels, paths, resize, truth_file, units
from mtlflax.data.source import Depth, Field, Labels, Map, Number
from mtlflax.errors import UserError

Size = tuple[int, int]


class Reader(Protocol):
    """Reads one field."""

    @property
    def field(self) -> Field:
        """What it makes."""

    @property
    def identity(self) -> str:
        """Tell how stored values are converted."""

    def read(self, path: Path) -> np.ndarray:
        """Read a file of the field as it is stored; UserError if it cannot be read."""

    def convert(self, stored: np.ndarray) -> np.ndarray:
        """Return the field's values from a file's: [h, w, ...] as stored; ValueError if they do not fit."""

    def resize(self, values: np.ndarray, size: Size) -> np.ndarray:
        """Return such values at another size."""


class LabelsReader:
    """Reads labels by a class table."""

    def __init__(self, table: class_table.ClassTable) -> None:
        self._table = table
        self.field: Labels = table.field
        self.identity = table.identity
        self.read = table.read

    def convert(self, stored: np.ndarray) -> np.ndarray:
        """As in `Reader`: [h, w]."""
        return self._table.convert(stored)

    def resize(self, values: np.ndarray, size: Size) -> np.ndarray:
        """As in `Reader`."""
        return resize.truth(values, size)


class DepthReader:
    """Reads a depth: float32 [h, w, 1], 0 = no measurement, or out of range."""

    read = staticmethod(truth_file.read)

    def __init__(
        self,
        scale: float = 1.0,
        offset: float = 0.0,
        unit: str = "metres",
        unknown: float | Sequence[float] = 0,
        least: float = 0.0,
        most: float = 0.0,
        sparse: bool = False,
    ) -> None:
        """ValueError for an unknown unit, or a scale of 0."""
        if not scale or not np.isfinite([scale, offset]).all():
            raise ValueError(f"scale is {scale} and offset {offset}: give numbers, and a scale other than 0")
        if scale < 0 or not 0 <= least <= (most or float("inf")):
            raise ValueError(f"scale is {scale}, least {least} and most {most}: give 0 < scale, 0 <= least <= most")
        if unknown is None or not np.all(np.isreal(np.asarray(unknown))):
            raise ValueError(f"unknown is {unknown}: give a number, or several")
        self._scale, self._offset, self._sparse = scale, offset, sparse
        self._unknown = np.atleast_1d(np.asarray(unknown, np.float64))
        self.field = Depth(units.get(unit), least=float(least), most=float(most) or float("inf"))
        self.identity = repr((scale, offset, unit, self._unknown.tolist(), least, most, sparse))

    def convert(self, stored: np.ndarray) -> np.ndarray:
        """As in `Reader`."""
        stored = stored[..., 0] if stored.ndim == 3 and stored.shape[2] == 1 else stored
        if stored.ndim != 2:
            raise ValueError(f"holds {list(stored.shape)}: a depth is one number per pixel (is it a colored picture?)")
        # In float64, so that 7000 × 0.001 is 7.
        values = (stored.astype(np.float64) * self._scale + self._offset).astype(np.float32)
        known = np.isfinite(values) & (values > 0)
        for value in self._unknown:
            # As it is stored: 655.35 in a file of float32 is not the float64 of that name.
            known &= stored != (value.astype(stored.dtype) if stored.dtype.kind == "f" else value)
        values = np.where(known, values, np.float32(0))[..., None]
        return np.where(self.field.measured(values), values, np.float32(0))

    def resize(self, values: np.ndarray, size: Size) -> np.ndarray:
        """As in `Reader`; where measurements are few, a pixel takes the one in it that is nearest to its center."""
        if not self._sparse or values.shape[:2] == size:
            return resize.truth(values[..., 0], size)[..., None]
        return resize.sparse(values[..., 0], size)[..., None]


class MapReader:
    """Reads any other numbers: float32 [h, w, channels]."""

    read = staticmethod(truth_file.read)

    def __init__(self, channels: int = 1, unknown: float = 0.0, mirror: Sequence[float] = ()) -> None:
        self.field = Map(channels, unknown=float(unknown), mirror=tuple(mirror))
        self.identity = ""

    def convert(self, stored: np.ndarray) -> np.ndarray:
        """As in `Reader`."""
        values = stored[..., None] if stored.ndim == 2 else stored
        if values.shape[2] != self.field.channels:
            raise ValueError(f"has {values.shape[2]} channels, but `channels` is {self.field.channels}")
        values = values.astype(np.float32)
        if (np.isnan(values) & ~np.isnan(self.field.unknown)).any():
            raise ValueError("holds NaN: if that is where nothing is known, give `unknown` float('nan')")
        return values

    def resize(self, values: np.ndarray, size: Size) -> np.ndarray:
        """As in `Reader`."""
        return np.stack([resize.truth(channel, size) for channel in np.moveaxis(values, 2, 0)], axis=-1)


_DEFAULT_KINDS = {"segmentation": "labels", "depth": "depth"}
_KINDS: dict[str, Callable[..., Reader]] = {"labels": LabelsReader, "depth": DepthReader, "map": MapReader}
_OPTIONS = {
    "labels": ("files", "classes"),
    "depth": ("files", "scale", "offset", "unit", "unknown", "least", "most", "sparse"),
    "map": ("files", "channels", "unknown", "mirror"),
    "number": ("value",),
}


def kind_of(name: str, options: Mapping[str, Any]) -> str:
    """Return a field's kind, after checking its options; ValueError for what there is not."""
    kind = options.get("kind") or _DEFAULT_KINDS.get(name, "")
    if kind not in _OPTIONS:
        raise ValueError(f"data.folder.fields.{name}.kind is {kind!r}: choose from {', '.join(_OPTIONS)}")
    for key in options:
        if key not in ("kind", *_OPTIONS[kind]):
            close = difflib.get_close_matches(key, _OPTIONS[kind], n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            there = ", ".join(_OPTIONS[kind])
            raise ValueError(f"data.folder.fields.{name}.{key} is no option of {kind}{hint}: there are {there}")
    return kind


def make(name: str, options: Mapping[str, Any], root: Path, labeled: Callable[[], Sequence[Path]]) -> Reader | Number:
    """Return what reads a field.

    Args:
        name: of the field.
        options: of `config.data.folder.fields`.
        root: of the data set, where a class table is looked for first.
        labeled: the field's files in all splits, if they are to be looked at.

    Raises:
        UserError: a class table, or the files in which classes are to be found, cannot be read.
        ValueError: an option that does not fit.
    """
    kind = kind_of(name, options)
    rest = {key: value for key, value in options.items() if key not in ("kind", "files", "value")}
    try:
        if kind == "number":
            return Number()
        if kind == "labels":
            return LabelsReader(_table(rest.get("classes", "found"), root, labeled))
        return _KINDS[kind](**rest)
    except (ValueError, TypeError) as error:
        raise ValueError(f"data.folder.fields.{name}: {error}") from error


def read(path: Path, reader: Reader, image_size: Size, size: Size | None) -> np.ndarray:
    """Read a field's file for an image of some size, at another (None: as stored).

    UserError, naming the file, if it cannot be read, does not fit its declaration, or has another size than its image.
    """
    stored = reader.read(path)
    if stored.shape[:2] != image_size:
        found, wanted = ("×".join(map(str, shape)) for shape in (stored.shape[:2], image_size))
        raise UserError(f"{path}: is {found} pixels, but its image is {wanted}")
    try:
        values = reader.convert(stored)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return values if size is None else reader.resize(values, size)


def _table(classes: Any, root: Path, labeled: Callable[[], Sequence[Path]]) -> class_table.ClassTable:
    if classes == "found":
        return class_table.make(class_table.found(labeled()))
    if classes == "cityscapes":
        keys = {"id": "id", "name": "name", "color": "color", "train_id": "train_id", "category": "group"}
        rows = [label._asdict() for label in labels.LABELS if label.id >= 0]
        return class_table.make([{to: row[key] for key, to in keys.items()} for row in rows])
    if isinstance(classes, str) and classes.lstrip()[:1] in ("(", "["):  # from the command line
        try:
            return class_table.make(ast.literal_eval(classes))
        except SyntaxError as error:
            raise ValueError(f"classes is {classes!r}: give names, or a file ({error.msg})") from error
    if isinstance(classes, str):
        return class_table.read(paths.below(root, classes))
    return class_table.make(classes)
