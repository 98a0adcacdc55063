"""Cityscapes as it is unpacked: leftImg8bit, gtFine, disparity and camera under one root.

`{root}/{type}/{split}/{city}/{city}_{sequence}_{frame}_{type}{ending}`, as the official scripts
(github.com/mcordts/cityscapesScripts) and the cameras' calibration document describe it.
"""

import copy
import json
import os
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from absl import logging

from mtlflax.data import labels, png, resize, units
from mtlflax.data.source import Depth, Field, Image, Labels, Number, Sample
from mtlflax.errors import UserError
from mtlflax.files import read_bytes

_IMAGE, _LABEL_IDS, _TRAIN_IDS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
_ENDINGS = {"leftImg8bit": _IMAGE, "gtFine": _LABEL_IDS, "disparity": "_disparity.png", "camera": "_camera.json"}


class _Frame(NamedTuple):
    city: str
    name: str
    has_train_ids: bool


def check_root(root: str | os.PathLike[str]) -> Path:
    """Return `root` with ~ expanded, or raise UserError where it is not a Cityscapes tree."""
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; give the root of Cityscapes")
    if not (path / "leftImg8bit").is_dir():
        raise UserError(f"{path}: has no folder leftImg8bit: give the root of Cityscapes, which holds it")
    return path


class Cityscapes:
    """The frames of one split, in the order of their names: a `Source`.

    `source[i]` is a dict of

    * `image`: uint8 [H, W, 3], RGB;
    * `segmentation`: uint8 [H, W], 0 to classes − 1, 255 = ignore (all of it in the split `test`);
    * `depth`: float32 [H, W, 1] in the chosen unit, 0 = no measurement;
    * `focal_baseline`: float32, the frame's own fx × baseline in pixels × metres at full width; 0 where there is no
      folder `camera`;
    * `name`: str, `{city}_{sequence}_{frame}`.

    A tree without the folder `gtFine` has no field `segmentation`, one without `disparity` no `depth`: `missing` says
    what to unpack. Images are resized by area (linearly when enlarged); labels and disparities take the pixel under the
    center, so that nothing is mixed and all stay aligned. A disparity stays in pixels at full width.

    The constructor lists folders and opens no file. Reading a frame raises UserError, naming the file, where it is
    missing, broken, of the wrong kind or of another size than its image.

    Args:
        root: the folder that holds leftImg8bit, gtFine, disparity and camera.
        split: "train", "val", "test" or another that is there.
        size: (H, W) of what is returned; None = as stored.
        depth: a unit, a key of `mtlflax.data.units.UNITS`.
        classes: 19 (train ids, from `_labelTrainIds.png` where it is there) or 7 (categories).

    Raises:
        UserError: a folder or a file of a frame is missing, or the size is not one.
        ValueError: unknown unit or number of classes.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        size: tuple[int, int] | None = None,
        depth: str = "normalised_disparity",
        classes: int = 19,
    ):
        self._root, self._split, self._classes = check_root(root), split, classes
        if size and (len(size) != 2 or not all(isinstance(n, int | np.integer) and n > 0 for n in size)):
            raise UserError(f"data.size is {tuple(size)}: give (height, width), both positive")
        self._size, self._full_truth = size, False
        self._lut = labels.lut(classes)
        self._unit = units.get(depth)
        self._check_folder("leftImg8bit")
        self._kinds = [kind for kind in ("gtFine", "disparity", "camera") if self._folder(kind).is_dir()]
        if "disparity" in self._kinds and "camera" not in self._kinds:
            if not self._unit.stereo:
                self._check_folder("camera")
            logging.warning("%s, so depth cannot be reported in metres", self._no_folder("camera"))
        truths: dict[str, tuple[str, Field]] = {
            "segmentation": ("gtFine", Labels(labels.table(classes), labels.IGNORE)),
            "depth": ("disparity", Depth(self._unit)),
        }
        self.fields: dict[str, Field] = {"image": Image(aspect=2.0)}
        self.missing: dict[str, str] = {}  # field → why this tree lacks it
        for name, (kind, field) in truths.items():
            if kind in self._kinds:
                self.fields[name] = field
            else:
                self.missing[name] = self._no_folder(kind)
        self.fields["focal_baseline"] = Number()
        self._frames = self._list_frames()

    @property
    def names(self) -> list[str]:
        """Of all frames, in their order."""
        return [frame.name for frame in self._frames]

    def with_full_truth(self) -> Self:
        """Return the same frames with labels and disparities as stored, beside images of the same size as here."""
        full = copy.copy(self)
        full._full_truth = True
        return full

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self._frames[index]
        image = png.read(self._path(frame, "leftImg8bit"), "8-bit RGB")
        focal_baseline = _focal_baseline(self._path(frame, "camera")) if "camera" in self._kinds else 0.0
        sample: Sample = {"image": resize.picture(image, self._size or image.shape[:2])}
        if "gtFine" in self._kinds:
            label = self._truth(frame, "gtFine", "8-bit gray", image)
            sample["segmentation"] = self._segmentation(label, self._path(frame, "gtFine"))
        if "disparity" in self._kinds:
            codes = self._truth(frame, "disparity", "16-bit gray", image)
            sample["depth"] = units.codes_to_unit(codes, focal_baseline, self._unit.name)[..., None]
        return sample | {"focal_baseline": np.float32(focal_baseline), "name": frame.name}

    def _truth(self, frame: _Frame, kind: str, pixel_kind: str, image: np.ndarray) -> np.ndarray:
        path = self._path(frame, kind)
        pixels = png.read(path, pixel_kind)
        if pixels.shape != image.shape[:2]:
            found, wanted = ("×".join(map(str, x.shape[:2])) for x in (pixels, image))
            raise UserError(f"{path}: is {found} pixels, but its image is {wanted}: restore the original files")
        return pixels if self._full_truth else resize.truth(pixels, self._size or pixels.shape)

    def _folder(self, kind: str) -> Path:
        return self._root / kind / self._split

    def _path(self, frame: _Frame, kind: str) -> Path:
        ending = _TRAIN_IDS if kind == "gtFine" and frame.has_train_ids else _ENDINGS[kind]
        return self._folder(kind) / frame.city / (frame.name + ending)

    def _check_folder(self, kind: str) -> None:
        if not self._folder(kind).is_dir():
            raise UserError(self._no_folder(kind))

    def _no_folder(self, kind: str) -> str:
        folder = self._folder(kind)
        there = ", ".join(s for s in ("train", "val", "test") if (folder.parent / s).is_dir())
        hint = f"; {folder.parent} has {there}" if there else ""
        return f"{folder}: there is no such folder{hint}: unpack {kind}_trainvaltest.zip into {self._root}"

    def _list_frames(self) -> list[_Frame]:
        frames: list[_Frame] = []
        missing: list[tuple[str, Path]] = []
        for city in sorted(_listed(self._folder("leftImg8bit"))):
            # One listing per folder: on a network disk, asking for each file would take minutes.
            listed = {kind: set(_listed(self._folder(kind) / city)) for kind in _ENDINGS}
            for image in sorted(listed["leftImg8bit"]):
                # macOS leaves "._" files beside what it copies.
                if not image.endswith(_IMAGE) or image.startswith("."):
                    continue
                name = image.removesuffix(_IMAGE)
                frame = _Frame(city, name, self._classes == 19 and name + _TRAIN_IDS in listed["gtFine"])
                frames.append(frame)
                paths = [(kind, self._path(frame, kind)) for kind in self._kinds]
                missing += [(kind, path) for kind, path in paths if path.name not in listed[kind]]
        if missing:
            kind, path = missing[0]
            more = f" ({len(missing)} files are missing in all)" if len(missing) > 1 else ""
            raise UserError(f"{path}: is missing{more}: unpack {kind}_trainvaltest.zip again, or remove its picture")
        if not frames:
            folder = self._folder("leftImg8bit")
            raise UserError(
                f"{folder}: holds no file CITY/*{_IMAGE}: unpack leftImg8bit_trainvaltest.zip into {self._root}"
            )
        return frames

    def _segmentation(self, label: np.ndarray, path: Path) -> np.ndarray:
        train_ids = path.name.endswith(_TRAIN_IDS)
        count = 19 if train_ids else labels.NUM_LABEL_IDS
        strange = label[(label >= count) & (label != labels.IGNORE)]  # the label id 255 is −1, a licence plate
        if strange.size:
            cure = ": remove the _labelTrainIds.png files, then _labelIds.png are read" if train_ids else ""
            kind = "train" if train_ids else "label"
            raise UserError(f"{path}: holds {strange[0]}, which is no {kind} id (0 to {count - 1}){cure}")
        return label if train_ids else self._lut[label]


def _focal_baseline(path: Path) -> float:
    try:
        camera = json.loads(read_bytes(path))
        focal_baseline = float(camera["intrinsic"]["fx"] * camera["extrinsic"]["baseline"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: has no intrinsic.fx or extrinsic.baseline: restore the original file") from error
    if not 0 < focal_baseline < float("inf"):
        raise UserError(f"{path}: fx × baseline is {focal_baseline}: restore the original file")
    return focal_baseline


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 (iterdir makes a Path of each of thousands)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
