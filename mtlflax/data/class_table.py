"""Which class each stored value, or each color, of a label file stands for: read from JSON or CSV, or found in files.

A table is a list of entries: names, or objects. An object has a `name`, and is told by its `id`, the stored value (its
position in the list if no entry has one), or in color-coded files by its `color`. `train_id` merges: entries of one
train id are one class, called as the first of them. An entry with `ignore` true (or `evaluate` false, as Mapillary has
it), or with a `train_id` of 255 or below 0, is no class. `group` is its category.
"""

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtlflax.data import truth_file
from mtlflax.data.source import Class, Labels
from mtlflax.data.text_table import read_csv, read_text
from mtlflax.errors import UserError

_IGNORE = 255  # "no label" by custom, as a stored value and as a train id
_NONE, _SEVERAL = -1, -2  # the class of what is ignored, and of a color that several classes have
_MOST = 256  # values that may be found: more are no classes
_FALSE = ("", "0", "false", "no", "n")


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """The classes, and where in label files each is found."""

    classes: tuple[Class, ...]
    values: Mapping[int, int]  # stored value → class; −1: ignored
    colors: Mapping[int, int]  # color, as 0xRRGGBB, → class; −1: ignored; −2: of several classes
    by_color: bool = False  # whether classes are told by their colors alone: entries have colors, and no ids

    @property
    def identity(self) -> str:
        """Tell which stored value or color is which class."""
        return repr((sorted(self.values.items()), sorted(self.colors.items())))

    @property
    def field(self) -> Labels:
        """The label map that `convert` makes: uint8, or uint16 for more than 255 classes."""
        wide = len(self.classes) > _IGNORE
        return Labels(self.classes, ignore=65535 if wide else _IGNORE, dtype="uint16" if wide else "uint8")

    def convert(self, stored: np.ndarray) -> np.ndarray:
        """Return class numbers [H, W] from what is stored: integers [H, W], or colors uint8 [H, W, 3].

        ValueError for what is not in the table, or no integers.
        """
        if stored.ndim == 3 and not self._has_colors(stored):
            stored = stored[..., 0]  # numbers, the same in three channels
        of = self.colors if stored.ndim == 3 else self.values
        values = packed(stored)
        found, inverse = np.unique(values, return_inverse=True)
        for value in found.tolist():
            if of.get(value, _SEVERAL) == _SEVERAL:
                shown = f"the color #{value:06x}" if stored.ndim == 3 else f"the value {value}"
                wrong = "that of several classes" if value in of else "not"
                raise ValueError(f"holds {shown}, which is {wrong} in the class table")
        numbers = np.array([of[value] for value in found.tolist()])
        field = self.field
        return np.where(numbers == _NONE, field.ignore, numbers).astype(field.dtype)[inverse].reshape(values.shape)

    def read(self, path: Path) -> np.ndarray:
        """Read a label file as `convert` takes it; UserError if it cannot be read."""
        return truth_file.read(path, colors=bool(self.colors), palette=self.by_color)

    def _has_colors(self, stored: np.ndarray) -> bool:
        """Whether what is stored in RGB is colors: some are not gray, or all are in the table, or it has no ids."""
        if self.by_color or stored.shape[2] != 3 or not (stored == stored[..., :1]).all():
            return True
        return all(value in self.colors for value in np.unique(packed(stored)).tolist())


def packed(stored: np.ndarray) -> np.ndarray:
    """Return labels as integers [H, W]: what is stored, or colors uint8 [H, W, 3] as 0xRRGGBB.

    ValueError for anything else.
    """
    if stored.ndim == 2 and np.issubdtype(stored.dtype, np.integer):
        return stored
    if stored.ndim == 2 and np.all(stored == np.rint(stored)):
        return stored.astype(np.int64)
    if stored.ndim == 3 and stored.shape[2] == 3 and stored.dtype == np.uint8:
        red, green, blue = (stored[..., i].astype(np.int32) for i in range(3))
        return red << 16 | green << 8 | blue
    raise ValueError(f"holds {stored.dtype} {list(stored.shape)}: labels are integers [height, width], or 8-bit colors")


def read(path: Path) -> ClassTable:
    """Read a table from JSON (a list, or an object with a list "labels" or "classes") or CSV with a header.

    UserError for a file that cannot be read, or that is no such table.
    """
    text = read_text(path)
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(text)
            if isinstance(content, dict):
                content = content.get("labels", content.get("classes"))
            if not isinstance(content, list):
                raise ValueError('it is no list, and has no list "labels" or "classes"')
            return make(content)
        return make(read_csv(text))
    except (ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: is no class table: {error}") from error


def make(entries: Iterable[Mapping[str, Any] | str]) -> ClassTable:
    """Return the table of some entries, names or objects with keys as the module says; ValueError for any other."""
    listed = [_lower({"name": entry} if isinstance(entry, str) else entry) for entry in entries]
    if not listed:
        raise ValueError("it has no entries")
    with_id = sum(_given(entry, "id") for entry in listed)
    if with_id not in (0, len(listed)):
        raise ValueError(f"{with_id} of {len(listed)} entries have an id: give one to all or to none")
    numbers: dict[Any, int] = {}  # train id, or position → class
    classes: list[Class] = []
    values: dict[int, int] = {}
    colors: dict[int, int] = {}
    for i, entry in enumerate(listed):
        where = f"entry {i + 1}"
        name = str(entry.get("name") or entry.get("readable") or "").strip()
        if not name:
            raise ValueError(f"{where} has no name, only {', '.join(sorted(entry))}")
        color, given = _color(entry, where)
        value = _integer(entry["id"], where, "id") if with_id else i
        train = entry.get("train_id", entry.get("trainid"))
        key: Any = ("position", i) if train in (None, "") else _integer(train, where, "train_id")
        evaluated = str(entry.get("evaluate", "")).strip().lower() not in _FALSE[1:]
        ignored = str(entry.get("ignore", "")).strip().lower() not in _FALSE or not evaluated
        if ignored or (isinstance(key, int) and (key < 0 or key == _IGNORE)):
            number = _NONE
        elif key in numbers:
            number = numbers[key]
        else:
            number = numbers[key] = len(classes)
            shown = color if given else _generated(number)
            group = str(entry.get("group", entry.get("category")) or "")
            classes.append(Class(name, shown, group=group, id=value))
        if value in values:
            raise ValueError(f"{where} ({name}): the id {value} is there twice")
        values[value] = number
        if given:
            packed_color = color[0] << 16 | color[1] << 8 | color[2]
            colors[packed_color] = number if colors.get(packed_color, number) == number else _SEVERAL
    if not classes:
        raise ValueError("all of its entries are ignored")
    order = sorted(range(len(classes)), key=_by_train_id(numbers, len(classes)))
    place = {old: new for new, old in enumerate(order)} | {_NONE: _NONE, _SEVERAL: _SEVERAL}
    table = ClassTable(
        tuple(classes[old] for old in order),
        {_IGNORE: _NONE} | {value: place[number] for value, number in values.items()},
        {color: place[number] for color, number in colors.items()},
        by_color=bool(colors) and not with_id,
    )
    _ = table.field  # checks the classes' names
    return table


def found(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a table's entries for all values, or all colors, in some label files: for `make`, and for a JSON file.

    Pictures in RGB hold colors if any of them has a color that is no gray, else numbers. Files that cannot be read are
    left out. UserError for a file that is no label map, values and colors mixed, more than 256 of them, or no file that
    can be read.
    """
    values: set[int] = set()  # of files with one channel, or in RGB
    colors: set[int] = set()
    wrong: list[UserError] = []
    for path in paths:
        try:
            stored = truth_file.read(path, colors=True)
        except UserError as error:
            wrong.append(error)
            continue
        try:
            (colors if stored.ndim == 3 else values).update(np.unique(packed(stored)).tolist())
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        if max(len(values), len(colors)) > _MOST:
            raise UserError(f"{path}: with it there are more than {_MOST} different labels: give a class table")
    if wrong and not (values or colors):
        raise wrong[0]
    if all(color == (color & 255) * 0x010101 for color in colors):
        values, colors = values | {color & 255 for color in colors}, set()
    if values and colors:
        raise UserError("some label files hold numbers and some hold colors: give a class table with ids and colors")
    if colors:
        return [{"name": f"#{v:06x}", "color": [v >> 16, v >> 8 & 255, v & 255]} for v in sorted(colors)]
    kept = sorted(values - {_IGNORE})
    if not kept:
        raise UserError(f"{paths[0]}: no label file holds a value other than {_IGNORE}, no label")
    return [{"name": str(value), "id": value} for value in kept]


def _lower(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"its entry {entry!r} is neither a name nor an object")
    return {str(key).strip().lower(): value for key, value in entry.items()}


def _given(entry: Mapping[str, Any], key: str) -> bool:
    return entry.get(key) not in (None, "")


def _color(entry: Mapping[str, Any], where: str) -> tuple[tuple[int, int, int], bool]:
    """An entry's color, and whether it has one: a list, "#rrggbb", "r g b", or columns r, g, b."""
    stored = entry.get("color")
    for names in (("r", "g", "b"), ("red", "green", "blue")):
        if stored in (None, "") and all(_given(entry, key) for key in names):
            stored = [entry[key] for key in names]
    if stored in (None, ""):
        return (0, 0, 0), False
    if isinstance(stored, str):
        text = stored.strip()
        if text.startswith("#") and len(text) == 7:
            stored = [int(text[i : i + 2], 16) for i in (1, 3, 5)]
        else:
            stored = text.strip("()[]").replace(",", " ").split()
    if not isinstance(stored, list | tuple):
        raise ValueError(f"{where}: color is {stored!r}: give three numbers of 0 to 255")
    red, green, blue, *rest = [_integer(part, where, "color") for part in stored] + [0] * (3 - len(stored))
    if len(stored) != 3 or rest or not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"{where}: color is {stored}: give three numbers of 0 to 255")
    return (red, green, blue), True


def _integer(value: Any, where: str, key: str) -> int:
    try:
        if int(float(value)) == float(value):
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{where}: {key} is {value!r}: give a whole number")


def _generated(number: int) -> tuple[int, int, int]:
    """A color for a class without one: the bits of its number spread over three channels, as in VOC's palette."""
    color, rest = [0, 0, 0], number + 1
    for bit in range(7, -1, -1):
        for channel in range(3):
            color[channel] |= (rest >> channel & 1) << bit
        rest >>= 3
    return color[0], color[1], color[2]


def _by_train_id(numbers: Mapping[Any, int], count: int) -> Any:
    """Classes with train ids in their order, and those without behind them, as listed."""
    train_ids = {number: key for key, number in numbers.items() if isinstance(key, int)}
    return lambda number: (0, train_ids[number]) if number in train_ids else (1, number)
