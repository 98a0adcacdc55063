"""The embedded data set: procedural road scenes with exact labels and depth, in Cityscapes' format.

Nothing is downloaded and nothing is stored: a frame is drawn and rendered from its address (seed, split, index), with
a camera of Cityscapes, all of its 19 classes, and its encodings. `python -m mtlflax.data.streets` writes the
official tree; `Streets(..., cache="auto")` keeps what it rendered.

How it works, in the order of the files: `scene` draws what there is (a `street`; `roadside` and `traffic` put
`furniture`, `vehicles` and `people` on its `stage`, made of `shapes`, in some `light`), `projection` and `raster` find
what is seen where, `render` colors it (`materials`, `bodywork`, `backdrop`, `shadows`), and `frame` adds what a
recording car adds.
"""

import operator
import threading
from pathlib import Path
from typing import Any

import numpy as np

from mtlflax.data import labels, units
from mtlflax.data.source import Depth, Field, Image, Labels, Number
from mtlflax.data.streets import cache as caches
from mtlflax.data.streets import frame as frames
from mtlflax.data.streets.scene import SPLITS
from mtlflax.errors import UserError

LENGTHS = {"train": 2975, "val": 500, "test": 1525}


def frame_name(split: str, index: int) -> str:
    """Return a frame's name, in Cityscapes' form city_sequence_frame; the city tells the split."""
    return f"streets-{split}_{index:06}_000019"


class Streets:
    """A split of the embedded data set: a `Source` with the fields of `cityscapes.Cityscapes`.

    `source[i]` is a dict of

    * `image`: uint8 [H, W, 3], RGB;
    * `segmentation`: uint8 [H, W], 0 to classes − 1, 255 = ignore;
    * `depth`: float32 [H, W, 1] in the chosen unit, 0 = no measurement;
    * `focal_baseline`: float32, fx × baseline in pixels × metres at full width;
    * `name`: str.

    The same (seed, split, index) is the same scene at any size, and the same bits at the same size. Depth goes through
    Cityscapes' 16-bit codes, so that a written tree reads back as the same arrays. Sources can be pickled and used from
    several threads.
    """

    def __init__(
        self,
        split: str,
        *,
        size: tuple[int, int],
        depth: str = "normalised_disparity",
        seed: int = 0,
        length: int | None = None,
        classes: int = 19,
        cache: str | None = None,
    ):
        """Describe a split; nothing is rendered yet.

        Args:
            split: "train", "val" or "test"; they share no scene.
            size: (H, W). The camera keeps its horizontal field of view.
            depth: a unit, a key of `mtlflax.data.units.UNITS`.
            seed: not negative; each seed is another city.
            length: how many frames; None = as many as Cityscapes has in this split.
            classes: 19 or 7, as in `mtlflax.data.labels`.
            cache: None = render at each access; "auto" = keep rendered frames in the user's cache folder
                (`cache.default_folder`); else the folder to keep them in. `prepare`, or the first access, fills it.

        Raises:
            ValueError: unknown split, unit or number of classes.
            UserError: the size, seed or length is not one.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
        self._split = split
        self._size = check_size(size)
        self._unit = units.get(depth)
        self._lut = labels.lut(classes)
        self._seed = _check_number("seed", seed, 0)
        self._length = _check_number("length", LENGTHS[split] if length is None else length, 1)
        self.fields: dict[str, Field] = {
            "image": Image(aspect=2.0),
            "segmentation": Labels(labels.table(classes), labels.IGNORE),
            "depth": Depth(self._unit),
            "focal_baseline": Number(),
        }
        self._folder = caches.default_folder() if cache == "auto" else Path(cache).expanduser() if cache else None
        self._cache: caches.Cache | None = None

    def prepare(self) -> None:
        """Render all frames into the cache, unless that has been done; without a cache, do nothing.

        Raises:
            UserError: the cache cannot be written.
        """
        if self._folder is not None and self._cache is None:
            with _preparing:
                if self._cache is None:
                    key = caches.Key(self._split, self._size, self._seed, self._length)
                    self._cache = caches.open_or_render(self._folder, key)

    @property
    def names(self) -> list[str]:
        """The names of all frames, in their order; seed and size are not in them."""
        return [frame_name(self._split, index) for index in range(self._length)]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = operator.index(index)
        if not -self._length <= index < self._length:
            raise IndexError(f"frame {index} of {self._length}")
        index %= self._length
        self.prepare()
        if self._cache is not None:
            record = self._cache[index]
            image, label, codes = (np.array(record[key]) for key in ("image", "label", "codes"))
            focal_baseline = float(record["focal_baseline"])
        else:
            frame = frames.make(self._seed, self._split, index, self._size)
            image, label, codes = frame.image, frame.label, frame.codes
            focal_baseline = frame.camera.focal_baseline
        return {
            "image": image,
            "segmentation": self._lut[label],
            "depth": units.codes_to_unit(codes, focal_baseline, self._unit.name)[..., None],
            "focal_baseline": np.float32(focal_baseline),
            "name": frame_name(self._split, index),
        }


# Held while a cache is rendered or opened: several threads may ask for the first frame at once.
_preparing = threading.Lock()


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (H, W) as ints, or raise UserError."""
    try:
        height, width = (operator.index(n) for n in size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise UserError(f"data.size is {size!r}: give (height, width), both positive")
    return height, width


def _check_number(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UserError(f"data.{name} is {value!r}: give a whole number, {least} or more")
    return number
