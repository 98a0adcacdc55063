"""What a data set declares: the fields of its samples, and how each kind of field behaves.

A source is any object with a length, samples by index, and `fields`. Loader, transforms, padding and statistics act on
the *kind* of a field and never on its name, and tasks take their classes or their unit from the field they read. So a
new data set, or a new ground truth in one, is one file in or outside the package.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from mtlflax.data.units import Unit

Sample = dict[str, Any]
Array = Any  # a NumPy or a JAX array: nothing under `data` imports jax


@dataclasses.dataclass(frozen=True)
class Field:
    """How one entry of a sample behaves; use one of the kinds below. `dtype` is the array's, as NumPy names it."""

    dtype: str = dataclasses.field(default="float32", kw_only=True)

    kind: ClassVar[str]
    spatial: ClassVar[bool] = True  # whether it has a value at each pixel: [H, W, ...]
    pixel: ClassVar[tuple[int, ...]] = ()  # the shape of what it has there

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of one frame's array, for frames of size (H, W)."""
        return (*size, *self.pixel) if self.spatial else ()

    @property
    def fill(self) -> float:
        """The value that says "nothing is known here": what padding holds."""
        return 0


@dataclasses.dataclass(frozen=True)
class Image(Field):
    """A color picture: uint8 [H, W, 3], RGB. Resized with interpolation; color changes apply to it."""

    # Width / height of the pictures as they were taken, where samples are scaled differently in x and y; None = as in
    # the samples. Prediction scales other pictures alike.
    aspect: float | None = None
    dtype: str = dataclasses.field(default="uint8", kw_only=True)
    kind: ClassVar[str] = "image"
    pixel: ClassVar[tuple[int, ...]] = (3,)


@dataclasses.dataclass(frozen=True)
class Class:
    """One class of a label map."""

    name: str  # as in the metrics' names (`iou/<name>`)
    color: tuple[int, int, int]  # RGB, 0 to 255, in pictures and predicted maps
    group: str = ""  # the category it belongs to, for scores per category; "" for none
    id: int | None = None  # its value in the data set's own files; None if it is the position in the table


@dataclasses.dataclass(frozen=True)
class Labels(Field):
    """A class or an object number at each pixel: integers [H, W]. Resized to the nearest pixel, never mixed."""

    # Pixel value c, counted from 0, is `classes[c]`. Empty for values that are no classes (instance numbers).
    classes: tuple[Class, ...] = ()
    ignore: int = 255  # the value of pixels that have no label
    dtype: str = dataclasses.field(default="uint8", kw_only=True)
    kind: ClassVar[str] = "labels"

    def __post_init__(self) -> None:
        """Raises ValueError: a name occurs twice, or `ignore` is the number of a class or does not fit the dtype."""
        names = [c.name for c in self.classes]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"labels: the class {twice!r} is in the table twice")
        if 0 <= self.ignore < len(names):
            raise ValueError(f"labels: ignore is {self.ignore}, the number of the class {names[self.ignore]!r}")
        limits = np.iinfo(self.dtype)
        most = min(int(limits.max), 2**31 - 1)  # devices compute in int32
        if not limits.min <= self.ignore <= most or len(names) > most + 1:
            raise ValueError(f"labels: {len(names)} classes and ignore {self.ignore} do not fit {self.dtype}")

    @property
    def fill(self) -> float:
        """`ignore`."""
        return self.ignore

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(c.name for c in self.classes)

    @property
    def colors(self) -> np.ndarray:
        """Of the classes: uint8 [C, 3], RGB."""
        return np.array([c.color for c in self.classes], np.uint8).reshape(-1, 3)


@dataclasses.dataclass(frozen=True)
class Depth(Field):
    """A depth at each pixel, [H, W, 1], in some unit; 0 = no measurement. Resized to the nearest pixel."""

    unit: Unit
    least: float = 0.0  # smaller values, in this unit, count as no measurement
    most: float = float("inf")  # larger values do
    kind: ClassVar[str] = "depth"
    pixel: ClassVar[tuple[int, ...]] = (1,)

    def measured(self, values: Array) -> Array:
        """Return where there is a measurement: bool, shaped as the values, a NumPy or JAX array."""
        return (values > 0) & (values < float("inf")) & (values >= self.least) & (values <= self.most)

    def zoom(self, values: Array, factor: Array) -> Array:
        """Return the values of a scene that is `factor` times nearer, see `Unit.zoom`; those out of range become 0.

        Infinity stays, if nothing is beyond `most`.
        """
        xp = values.__array_namespace__()
        beyond = (values < self.least) | (values > self.most)
        return self.unit.zoom(xp.where(beyond, xp.zeros_like(values), values), factor)


@dataclasses.dataclass(frozen=True)
class Map(Field):
    """Any other numbers at each pixel: [H, W, channels], such as stored normals or an edge strength.

    Resized to the nearest pixel; a zoom leaves the values as they are.
    """

    channels: int = 1
    unknown: float = 0.0  # the value of pixels at which nothing is known
    # The factor of each channel when left and right are exchanged: (-1, 1, 1) for normals with x to the right; () = 1.
    mirror: tuple[float, ...] = ()
    kind: ClassVar[str] = "map"

    def __post_init__(self) -> None:
        """Raises ValueError: another number of mirror factors than of channels."""
        if self.mirror and len(self.mirror) != self.channels:
            raise ValueError(f"map: {len(self.mirror)} mirror factors for {self.channels} channels")

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """[H, W, channels]."""
        return (*size, self.channels)

    @property
    def fill(self) -> float:
        """`unknown`."""
        return self.unknown


@dataclasses.dataclass(frozen=True)
class Number(Field):
    """One number per frame, such as a camera's focal length: a scalar; 0 = unknown. No transform changes it."""

    kind: ClassVar[str] = "number"
    spatial: ClassVar[bool] = False


@runtime_checkable
class Source(Protocol):
    """A data set, or one split of it.

    `source[i]` is a dict with the declared fields, as NumPy arrays, and `name`, a string that tells the frame from all
    others. A source may have a method `prepare()`: what takes long (rendering, unpacking) and is done once, before the
    first sample is read. Where a sample lacks a declared field, that field is unknown throughout the frame.

    A source can be evaluated at full size if it has a method `with_full_truth()`, which returns a source of the same
    frames with the same images and the truth at its own size, one size for all frames.
    """

    @property
    def fields(self) -> Mapping[str, Field]:
        """Field name → how it behaves; "image" is one of them."""

    @property
    def names(self) -> Sequence[str]:
        """Of the frames, in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...
