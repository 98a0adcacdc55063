"""The frames of one split of a data set in folders: a `Source`."""

import contextlib
import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from mtlflax.data import paths, photo, resize, truth_file
from mtlflax.data.folder import frames, lists, reading
from mtlflax.data.folder.frame import Frame
from mtlflax.data.folder.reading import Size
from mtlflax.data.source import Field, Image, Number, Sample
from mtlflax.errors import UserError

_SPLITS = ("train", "val")
_OPTIONS: dict[str, Any] = {"list": "", "image": "images/*", "white": 0, "splits": {}, "val_share": 0.2, "fields": {}}


class Folder:
    """The frames of a split, in the order of their names, as `config.data.folder` describes them.

    `source[i]` is a dict of `image`, uint8 [H, W, 3], RGB, the fields that the frame has a file for (see
    `mtlflax.data.folder.reading`), and `name`. Images are resized by area (linearly when enlarged); other fields take
    the pixel under the center.

    The constructor lists files; it opens the first image, for its aspect, and a class table, or all label files if the
    classes are to be found. Reading a frame raises UserError, naming the file, where one is missing, damaged, of
    another size than its image, or holds what its field does not allow.
    """

    def __init__(self, root: Path, split: str, options: Mapping[str, Any], size: Size | None = None) -> None:
        """Find the frames.

        Args:
            root: the folder that patterns start from.
            split: "train" or "val".
            options: `config.data.folder`.
            size: (H, W) of what is returned; None = as stored.

        Raises:
            UserError: no files, no frames, or a class table that cannot be read.
            ValueError: an option that does not fit.
        """
        self.root, self._size, self._full_truth = root, size, False
        options = _checked(options)
        self._white = int(options["white"])
        by_split = {name: _frames(root, name, options) for name in dict.fromkeys((split, *_SPLITS))}
        self.frames, self.unused = by_split[split]
        self._readers = {
            name: reading.make(name, values, root, functools.partial(_files, by_split, name))
            for name, values in _declared(options).items()
        }
        self._values = {name: float(values.get("value", 0)) for name, values in _declared(options).items()}
        self.fields: dict[str, Field] = {"image": Image(aspect=self._aspect())}
        for name, reader in self._readers.items():
            self.fields[name] = reader if isinstance(reader, Number) else reader.field

    @property
    def identity(self) -> str:
        """How stored values become classes and depths, see `data.describe`."""
        return repr(
            [(name, reader.identity) for name, reader in self._readers.items() if not isinstance(reader, Number)]
        )

    @property
    def names(self) -> list[str]:
        """Of all frames, in their order."""
        return [frame.name for frame in self.frames]

    def with_full_truth(self) -> Self:
        """Return the same frames with their truth as stored, beside images of the same size as here."""
        full = copy.copy(self)
        full._full_truth = True
        return full

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self.frames[index]
        image = self._photo(frame)
        stored = image.shape[0], image.shape[1]
        size = self._size or stored
        sample: Sample = {"image": resize.picture(image, size)}
        for name, reader in self._readers.items():
            if isinstance(reader, Number):
                sample[name] = np.float32(frame.numbers.get(name, self._values[name]))
            elif name in frame.files:
                sample[name] = reading.read(frame.files[name], reader, stored, None if self._full_truth else size)
        return sample | {"name": frame.name}

    def _photo(self, frame: Frame) -> np.ndarray:
        picture = photo.read(frame.files["image"], self._white)
        if picture.note.startswith("16-bit"):  # each frame would have a white of its own
            raise UserError(f"{frame.files['image']}: {picture.note}: give the value of white as data.folder.white")
        return picture.pixels

    def _aspect(self) -> float | None:
        """Width / height of the pictures, if samples are scaled differently in x and y: the first one's."""
        if self._size is None:
            return None
        for frame in self.frames:
            with contextlib.suppress(UserError):  # whether it is skipped is decided when it is read
                height, width, _ = self._photo(frame).shape
                return width / height
        return None


def open_folder(config: Any, split: str, *, as_stored: bool = False) -> Folder:
    """Open a split of `config.data`: its `root`, `folder` and, unless frames are wanted as they are stored, `size`.

    UserError and ValueError as from `Folder`.
    """
    if not config.root:
        raise UserError("data.name is folder: give the folder that holds your files as data.root")
    root = paths.make(config.root)
    if not paths.is_dir(root):
        raise UserError(f"data.root is {root}: there is no such folder")
    if "folder" not in config:
        raise ValueError("data.name is folder, but the config has no data.folder: see configs/folder.py")
    return Folder(root, split, config.folder.to_dict(), None if as_stored else tuple(config.size))


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    if surplus := [key for key in options if key not in _OPTIONS]:
        raise ValueError(f"data.folder.{surplus[0]} is no option: there are {', '.join(_OPTIONS)}")
    options = _OPTIONS | dict(options)
    for name, values in options["fields"].items():
        reading.kind_of(name, values)
    return options


def _declared(options: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The fields that are there: those with files, with a value, or in the list."""
    fields: Mapping[str, Mapping[str, Any]] = options["fields"]
    return {
        name: values
        for name, values in fields.items()
        if options["list"] or reading.kind_of(name, values) == "number" or values.get("files")
    }


def _frames(root: Path, split: str, options: Mapping[str, Any]) -> tuple[list[Frame], dict[str, list[str]]]:
    if options["list"]:
        listed = paths.below(root, options["list"])
        return lists.read_list(listed, root, split, options["val_share"], options["fields"]), {}
    patterns = {
        name: (values["files"], truth_file.SUFFIXES)
        for name, values in _declared(options).items()
        if reading.kind_of(name, values) != "number"
    }
    return frames.match(root, split, options["image"], patterns, options["splits"], options["val_share"])


def _files(by_split: Mapping[str, tuple[list[Frame], Any]], name: str) -> list[Path]:
    found = {frame.files[name] for listed, _ in by_split.values() for frame in listed if name in frame.files}
    if not found:
        raise UserError(f"no frame has a file for {name}, in which its classes could be found")
    return sorted(found)
