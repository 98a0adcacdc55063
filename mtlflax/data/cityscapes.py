"""Cityscapes as it is unpacked: leftImg8bit, gtFine, disparity and camera under one root.

`{root}/{type}/{split}/{city}/{city}_{sequence}_{frame}_{type}{ending}`, as the official scripts
(github.com/mcordts/cityscapesScripts) and the cameras' calibration document describe it.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from absl import logging

from mtlflax.data import labels, png, units
from mtlflax.errors import UserError

Sample = dict[str, Any]

_IMAGE_ENDING = "_leftImg8bit.png"
_PACKAGES = {
    "leftImg8bit": "leftImg8bit_trainvaltest.zip",
    "gtFine": "gtFine_trainvaltest.zip",
    "disparity": "disparity_trainvaltest.zip",
    "camera": "camera_trainvaltest.zip",
}
_LABEL_IDS, _TRAIN_IDS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


class _Frame(NamedTuple):
    city: str
    name: str
    labels: str  # the ending of the label file that is there


def check_root(root: str | os.PathLike[str]) -> Path:
    """Returns `root` with ~ expanded, or raises UserError where it is not a Cityscapes tree."""
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; give the root of Cityscapes")
    if not (path / "leftImg8bit").is_dir():
        raise UserError(
            f"{path}: is not the root of Cityscapes, since it has no folder leftImg8bit;"
            " give the folder in which leftImg8bit, gtFine and disparity lie"
        )
    return path


class Cityscapes:
    """The frames of one split, in the order of their names: a random-access source.

    `source[i]` is a dict of

    * `image`: uint8 [H, W, 3], RGB;
    * `segmentation`: uint8 [H, W], 0 to classes − 1, 255 = ignore (all of it in the split `test`);
    * `depth`: float32 [H, W, 1] in the chosen unit, 0 = no measurement;
    * `focal_baseline`: float32, the frame's own fx × baseline in pixels × metres at full width; 0
      where there is no folder `camera`;
    * `name`: str, `{city}_{sequence}_{frame}`.

    Pictures are resized by area (linearly when enlarged), labels and disparities take the pixel
    under the centre, so that nothing is mixed and all stay aligned. `depth` keeps its values: a
    disparity stays in pixels at full width.

    The constructor lists folders and opens no file. Reading a frame raises UserError, naming the
    file, where it is missing, broken, of the wrong kind or of another size than its picture.
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
        """Checks the folders and lists the frames.

        Args:
            root: the folder in which leftImg8bit, gtFine, disparity and camera lie.
            split: "train", "val", "test" or another that is there.
            size: (H, W) of what is returned; None = as stored.
            depth: a unit of `mtlflax.data.units`.
            classes: 19 (train ids, from `_labelTrainIds.png` where it is there) or 7 (categories).

        Raises:
            UserError: a folder or a file of a frame is missing, or the size is not one.
            ValueError: unknown unit or number of classes.
        """
        self._root = check_root(root)
        self._split = split
        self._size = _check_size(size)
        self._unit = units.check(depth)
        self._classes = classes
        self._lut = labels.lut(classes)
        for kind in ("leftImg8bit", "gtFine", "disparity"):
            self._check_folder(kind)
        self._has_camera = self._folder("camera").is_dir()
        if not self._has_camera:
            if depth in ("inverse_metres", "metres"):
                self._check_folder("camera")
            logging.warning(
                "%s: there is no such folder, so depth cannot be reported in metres (unpack %s)",
                self._folder("camera"),
                _PACKAGES["camera"],
            )
        self._frames = self._list_frames()

    @property
    def names(self) -> list[str]:
        """The names of all frames, in their order."""
        return [frame.name for frame in self._frames]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self._frames[index]
        image_path = self._path(frame, "leftImg8bit", _IMAGE_ENDING)
        image = png.read(image_path, "8-bit RGB")
        label_path = self._path(frame, "gtFine", frame.labels)
        label = png.read(label_path, "8-bit gray")
        codes_path = self._path(frame, "disparity", "_disparity.png")
        codes = png.read(codes_path, "16-bit gray")
        for path, pixels in ((label_path, label), (codes_path, codes)):
            if pixels.shape != image.shape[:2]:
                raise UserError(
                    f"{path}: is {_shape(pixels)} pixels, but its picture {image_path.name} is"
                    f" {_shape(image)}: restore the original files"
                )
        if self._size is not None:
            image = _resize(image, self._size, exact=False)
            label = _resize(label, self._size, exact=True)
            codes = _resize(codes, self._size, exact=True)
        focal_baseline = self._focal_baseline(frame) if self._has_camera else 0.0
        return {
            "image": image,
            "segmentation": self._segmentation(label, label_path),
            "depth": units.codes_to_unit(codes, focal_baseline, self._unit)[..., None],
            "focal_baseline": np.float32(focal_baseline),
            "name": frame.name,
        }

    def _folder(self, kind: str) -> Path:
        return self._root / kind / self._split

    def _path(self, frame: _Frame, kind: str, ending: str) -> Path:
        return self._folder(kind) / frame.city / (frame.name + ending)

    def _check_folder(self, kind: str) -> None:
        folder = self._folder(kind)
        if folder.is_dir():
            return
        there = ", ".join(s for s in ("train", "val", "test") if (folder.parent / s).is_dir())
        hint = f"; {folder.parent} has {there}" if there else ""
        raise UserError(f"{folder}: there is no such folder{hint}: unpack {_PACKAGES[kind]} into {self._root}")

    def _list_frames(self) -> list[_Frame]:
        # One listing a folder: on a network disk, asking for each file would take minutes.
        frames: list[_Frame] = []
        missing: list[Path] = []
        for city in sorted(_listed(self._folder("leftImg8bit"))):
            images, targets, disparities, cameras = (set(_listed(self._folder(kind) / city)) for kind in _PACKAGES)
            for image in sorted(images):
                # macOS leaves "._" files beside what it copies.
                if not image.endswith(_IMAGE_ENDING) or image.startswith("."):
                    continue
                name = image.removesuffix(_IMAGE_ENDING)
                train_ids = self._classes == 19 and name + _TRAIN_IDS in targets
                frame = _Frame(city, name, _TRAIN_IDS if train_ids else _LABEL_IDS)
                frames.append(frame)
                if name + frame.labels not in targets:
                    missing.append(self._path(frame, "gtFine", frame.labels))
                if name + "_disparity.png" not in disparities:
                    missing.append(self._path(frame, "disparity", "_disparity.png"))
                if self._has_camera and name + "_camera.json" not in cameras:
                    missing.append(self._path(frame, "camera", "_camera.json"))
        if missing:
            more = f" ({len(missing)} files are missing in all)" if len(missing) > 1 else ""
            package = _PACKAGES[missing[0].relative_to(self._root).parts[0]]
            raise UserError(
                f"{missing[0]}: is missing{more}: unpack {package} into {self._root}"
                " again, or remove the frame's picture"
            )
        if not frames:
            raise UserError(
                f"{self._folder('leftImg8bit')}: holds no file CITY/*{_IMAGE_ENDING}:"
                f" unpack {_PACKAGES['leftImg8bit']} into {self._root}"
            )
        return frames

    def _segmentation(self, label: np.ndarray, path: Path) -> np.ndarray:
        if not path.name.endswith(_TRAIN_IDS):
            strange = label[(label >= labels.NUM_LABEL_IDS) & (label != labels.IGNORE)]  # 255 is −1, a licence plate
            if strange.size:
                raise UserError(f"{path}: holds {strange[0]}, which is no label id (0 to {labels.NUM_LABEL_IDS - 1})")
            return self._lut[label]
        strange = label[(label >= 19) & (label != labels.IGNORE)]
        if strange.size:
            raise UserError(
                f"{path}: holds {strange[0]}, which is no train id (0 to 18, 255 = ignore):"
                " remove the _labelTrainIds.png files, then _labelIds.png are read"
            )
        return label

    def _focal_baseline(self, frame: _Frame) -> float:
        path = self._path(frame, "camera", "_camera.json")
        try:
            camera = json.loads(path.read_text(encoding="utf-8"))
            focal_baseline = float(camera["intrinsic"]["fx"] * camera["extrinsic"]["baseline"])
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: is no camera file with intrinsic.fx and extrinsic.baseline: restore the original file"
            ) from error
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


def _check_size(size: tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    if len(size) != 2 or not all(isinstance(n, int | np.integer) and n > 0 for n in size):
        raise UserError(f"data.size is {tuple(size)}: give (height, width), both positive")
    return int(size[0]), int(size[1])


def _shape(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]}×{pixels.shape[1]}"


def _resize(pixels: np.ndarray, size: tuple[int, int], *, exact: bool) -> np.ndarray:
    if pixels.shape[:2] == size:
        return pixels
    if exact:
        method = cv2.INTER_NEAREST_EXACT  # plain INTER_NEAREST takes the corner, not the centre
    else:
        shrinks = size[0] <= pixels.shape[0] and size[1] <= pixels.shape[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, (size[1], size[0]), interpolation=method)
