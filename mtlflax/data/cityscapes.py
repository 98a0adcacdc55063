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

from mtlflax.data import labels, paths, png, resize, units
from mtlflax.data.source import Depth, Field, Image, Labels, Number, Sample
from mtlflax.errors import UserError
from mtlflax.files import read_bytes

_IMAGE = "_leftImg8bit.png"
ANNOTATIONS = ("gtFine", "gtCoarse")


class _Frame(NamedTuple):
    city: str
    name: str
    has_train_ids: bool


def check_root(root: str | os.PathLike[str]) -> Path:
    """Return `root` as a path, or raise UserError where it is not a Cityscapes tree."""
    path = paths.make(root)
    if not paths.is_dir(path):
        raise UserError(f"{path}: there is no such folder; give the root of Cityscapes")
    if not paths.is_dir(path / "leftImg8bit"):
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
    * `instances`, if asked for: uint16 [H, W], label id × 1000 + number for objects that are counted, the label id
      elsewhere; 65535 = ignore;
    * `name`: str, `{city}_{sequence}_{frame}`.

    A tree without the folder `gtFine` has no field `segmentation`, one without `disparity` no `depth`: `missing` says
    what to unpack. Images are resized by area (linearly when enlarged); labels and disparities take the pixel under the
    center, so that nothing is mixed and all stay aligned. A disparity stays in pixels at full width.

    The constructor lists folders and opens no file. Reading a frame raises UserError, naming the file, where it is
    missing, broken, of the wrong kind or of another size than its image.

    Args:
        root: the folder that holds leftImg8bit, gtFine, disparity and camera, here or in a bucket.
        split: "train", "val", "test", "train_extra" or another that is there.
        size: (H, W) of what is returned; None = as stored.
        depth: a unit, a key of `mtlflax.data.units.UNITS`.
        classes: 19 (train ids, from `_labelTrainIds.png` where it is there), 7 (categories) or 34 (all label ids).
        annotations: "gtFine", or "gtCoarse", which `train_extra` has alone.
        frames: a text file with a name in each line: these frames alone. None = all.
        instances: whether samples have `instances`.

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
        annotations: str = "gtFine",
        frames: str | os.PathLike[str] | None = None,
        instances: bool = False,
    ):
        self._root, self._split, self._classes = check_root(root), split, classes
        if size and (len(size) != 2 or not all(isinstance(n, int | np.integer) and n > 0 for n in size)):
            raise UserError(f"data.size is {tuple(size)}: give (height, width), both positive")
        self._size, self._full_truth = size, False
        if annotations not in ANNOTATIONS:
            raise ValueError(f"annotations is {annotations!r}: choose {' or '.join(ANNOTATIONS)}")
        self._annotations, self._train_ids = annotations, f"_{annotations}_labelTrainIds.png"
        self._endings = {
            "leftImg8bit": _IMAGE,
            annotations: f"_{annotations}_labelIds.png",
            "disparity": "_disparity.png",
            "camera": "_camera.json",
        }
        self._lut = labels.lut(classes)
        self._unit = units.get(depth)
        self._check_folder("leftImg8bit")
        self._kinds = [kind for kind in (annotations, "disparity", "camera") if paths.is_dir(self._folder(kind))]
        if "disparity" in self._kinds and "camera" not in self._kinds:
            if not self._unit.stereo:
                self._check_folder("camera")
            logging.warning("%s, so depth cannot be reported in metres", self._no_folder("camera"))
        truths: dict[str, tuple[str, Field]] = {
            "segmentation": (annotations, Labels(labels.table(classes), labels.IGNORE)),
            "depth": ("disparity", Depth(self._unit)),
        }
        self.fields: dict[str, Field] = {"image": Image(aspect=2.0)}
        self.missing: dict[str, str] = {}  # field → why this tree lacks it
        for name, (kind, field) in truths.items():
            if kind in self._kinds:
                self.fields[name] = field
            else:
                self.missing[name] = self._no_folder(kind)
        if instances:
            self._check_folder(annotations)
            self.fields["instances"] = Labels(ignore=65535, dtype="uint16")
        self.fields["focal_baseline"] = Number()
        self._frames = self._list_frames()
        if frames:
            self._frames = _chosen(self._frames, paths.make(frames))

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
        if "segmentation" in self.fields:
            label = self._truth(self._path(frame, self._annotations), "8-bit gray", image)
            sample["segmentation"] = self._segmentation(label, self._path(frame, self._annotations))
        if "instances" in self.fields:
            path = self._folder(self._annotations) / frame.city / f"{frame.name}_{self._annotations}_instanceIds.png"
            sample["instances"] = self._truth(path, "16-bit gray", image)
        if "disparity" in self._kinds:
            codes = self._truth(self._path(frame, "disparity"), "16-bit gray", image)
            sample["depth"] = units.codes_to_unit(codes, focal_baseline, self._unit.name)[..., None]
        return sample | {"focal_baseline": np.float32(focal_baseline), "name": frame.name}

    def _truth(self, path: Path, kind: str, image: np.ndarray) -> np.ndarray:
        pixels = png.read(path, kind)
        if pixels.shape != image.shape[:2]:
            found, wanted = ("×".join(map(str, x.shape[:2])) for x in (pixels, image))
            raise UserError(f"{path}: is {found} pixels, but its image is {wanted}: restore the original files")
        return pixels if self._full_truth else resize.truth(pixels, self._size or pixels.shape)

    def _folder(self, kind: str) -> Path:
        return self._root / kind / self._split

    def _path(self, frame: _Frame, kind: str) -> Path:
        train_ids = kind == self._annotations and frame.has_train_ids
        ending = self._train_ids if train_ids else self._endings[kind]
        return self._folder(kind) / frame.city / (frame.name + ending)

    def _check_folder(self, kind: str) -> None:
        if not paths.is_dir(self._folder(kind)):
            raise UserError(self._no_folder(kind))

    def _no_folder(self, kind: str) -> str:
        folder = self._folder(kind)
        there = ", ".join(s for s in ("train", "val", "test", "train_extra") if paths.is_dir(folder.parent / s))
        hint = f"; {folder.parent} has {there}" if there else ""
        return f"{folder}: there is no such folder{hint}: unpack {self._package(kind)} into {self._root}"

    def _package(self, kind: str) -> str:
        if kind == "gtCoarse":
            return "gtCoarse.zip"
        if (kind, self._split) == ("gtFine", "train_extra"):
            return "nothing: these frames have coarse labels alone, so give data.cityscapes.annotations=gtCoarse; not"
        return f"{kind}_{'trainextra' if self._split == 'train_extra' else 'trainvaltest'}.zip"

    def _list_frames(self) -> list[_Frame]:
        frames: list[_Frame] = []
        missing: list[tuple[str, Path]] = []
        for city in sorted(paths.names(self._folder("leftImg8bit"))):
            # One listing per folder: on a network disk, asking for each file would take minutes.
            listed = {kind: set(paths.names(self._folder(kind) / city)) for kind in self._endings}
            for image in sorted(listed["leftImg8bit"]):
                # macOS leaves "._" files beside what it copies.
                if not image.endswith(_IMAGE) or image.startswith("."):
                    continue
                name = image.removesuffix(_IMAGE)
                has_train_ids = self._classes == 19 and name + self._train_ids in listed[self._annotations]
                frame = _Frame(city, name, has_train_ids)
                frames.append(frame)
                wanted = [(kind, self._path(frame, kind)) for kind in self._kinds]
                missing += [(kind, path) for kind, path in wanted if path.name not in listed[kind]]
        if missing:
            kind, path = missing[0]
            more = f" ({len(missing)} files are missing in all)" if len(missing) > 1 else ""
            raise UserError(f"{path}: is missing{more}: unpack {self._package(kind)} again, or remove its picture")
        if not frames:
            folder = self._folder("leftImg8bit")
            raise UserError(
                f"{folder}: holds no file CITY/*{_IMAGE}: unpack {self._package('leftImg8bit')} into {self._root}"
            )
        return frames

    def _segmentation(self, label: np.ndarray, path: Path) -> np.ndarray:
        train_ids = path.name.endswith(self._train_ids)
        count = 19 if train_ids else labels.NUM_LABEL_IDS
        strange = label[(label >= count) & (label != labels.IGNORE)]  # the label id 255 is −1, a licence plate
        if strange.size:
            cure = ": remove the _labelTrainIds.png files, then _labelIds.png are read" if train_ids else ""
            kind = "train" if train_ids else "label"
            raise UserError(f"{path}: holds {strange[0]}, which is no {kind} id (0 to {count - 1}){cure}")
        return label if train_ids else self._lut[label]


def _chosen(frames: list[_Frame], path: Path) -> list[_Frame]:
    """The frames that a text file names, in their order."""
    lines = {line.strip() for line in read_bytes(path).decode(errors="replace").splitlines() if line.strip()}
    names = {Path(line).name.removesuffix(_IMAGE) for line in lines}
    chosen = [frame for frame in frames if frame.name in names]
    if unknown := sorted(names - {frame.name for frame in chosen}):
        raise UserError(
            f"{path}: names {len(unknown)} frames that this split lacks, {unknown[0]!r} first; frames are called as "
            f"{frames[0].name!r}"
        )
    if not chosen:
        raise UserError(f"{path}: names no frames")
    return chosen


def _focal_baseline(path: Path) -> float:
    try:
        camera = json.loads(read_bytes(path))
        focal_baseline = float(camera["intrinsic"]["fx"] * camera["extrinsic"]["baseline"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: has no intrinsic.fx or extrinsic.baseline: restore the original file") from error
    if not 0 < focal_baseline < float("inf"):
        raise UserError(f"{path}: fx × baseline is {focal_baseline}: restore the original file")
    return focal_baseline
