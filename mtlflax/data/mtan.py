"""MTAN's preprocessed Cityscapes: the arrays that LibMTL, Nash-MTL, CAGrad and FAMO report on.

`{root}/{train,val}/{image,label,depth}/{i}.npy`, 128×256 or 256×512, from github.com/lorenmt/mtan: images as numbers of
0 to 1, labels with −1 for no label, and depth as a 16-bit disparity / 65535. Their numbers are not those of
Cityscapes' own frames, which cannot be told from them, and their cameras are not known: so there are no metres.
"""

from pathlib import Path

import numpy as np

from mtlflax.data import labels, paths, resize, truth_file, units
from mtlflax.data.source import Depth, Field, Image, Labels, Sample
from mtlflax.errors import UserError

_FOLDERS = {"image": "image", "segmentation": "label", "depth": "depth"}


class MTANCityscapes:
    """The frames of one split, in the order of their numbers: a `Source`.

    `source[i]` is a dict of

    * `image`: uint8 [H, W, 3], the numbers of 0 to 1 rounded to 255 steps;
    * `segmentation`: uint8 [H, W], 0 to classes − 1, 255 = ignore;
    * `depth`: float32 [H, W, 1], disparity / 65535 as stored, 0 = no measurement;
    * `name`: str, the number.

    Reading a frame raises UserError, naming the file, where one is missing, damaged or holds anything else.
    """

    def __init__(self, root: str | Path, split: str, *, size: tuple[int, int] | None = None, classes: int = 7):
        """Find the frames; no file is opened.

        Args:
            root: the folder that holds train and val.
            split: "train" or "val".
            size: (H, W) of what is returned; None = as stored.
            classes: of the labels, 7 or 19: the arrays come with either.

        Raises:
            UserError: a folder is missing, or holds other numbers than `image`.
            ValueError: another number of classes.
        """
        self._folder, self._size, self._classes = paths.make(root) / split, size, classes
        numbers = {name: self._numbers(folder) for name, folder in _FOLDERS.items()}
        if not numbers["image"]:
            raise UserError(f"{self._folder / 'image'}: holds no files 0.npy, 1.npy, ...")
        for name, folder in _FOLDERS.items():
            if odd := sorted(numbers["image"] ^ numbers[name]):
                where = "image" if odd[0] in numbers[name] else folder
                raise UserError(f"{self._folder / where / f'{odd[0]}.npy'}: is missing ({len(odd)} files in all)")
        self._frames = sorted(numbers["image"])
        self.fields: dict[str, Field] = {
            "image": Image(aspect=2.0),
            "segmentation": Labels(labels.table(classes), labels.IGNORE),
            "depth": Depth(units.get("normalised_disparity")),
        }

    @property
    def names(self) -> list[str]:
        """Of all frames, in their order."""
        return [str(number) for number in self._frames]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        number = self._frames[index]
        image = self._read("image", number)
        if image.ndim != 3 or image.shape[2] != 3 or not ((image >= 0) & (image <= 1)).all():
            raise UserError(f"{self._path('image', number)}: is no image [H, W, 3] of numbers from 0 to 1")
        size = self._size or (image.shape[0], image.shape[1])
        stored = self._truth("label", number, image)
        if not np.isin(stored, np.arange(-1, self._classes)).all():
            strange = stored[~np.isin(stored, np.arange(-1, self._classes))].flat[0]
            raise UserError(
                f"{self._path('label', number)}: holds {strange:g}, which is neither −1 nor a class below "
                f"{self._classes}: see config.data.classes"
            )
        depth = self._truth("depth", number, image)
        if not ((depth >= 0) & (depth < 1)).all():
            raise UserError(f"{self._path('depth', number)}: is no disparity / 65535, from 0 to below 1")
        ids = np.where(stored < 0, labels.IGNORE, stored).astype(np.uint8)
        return {
            "image": resize.picture(np.rint(image * 255).astype(np.uint8), size),
            "segmentation": resize.truth(ids, size),
            "depth": resize.truth(depth.astype(np.float32), size)[..., None],
            "name": str(number),
        }

    def _numbers(self, folder: str) -> set[int]:
        path = self._folder / folder
        if not paths.is_dir(path):
            raise UserError(f"{path}: there is no such folder: give the folder that holds train and val as data.root")
        stems = [name.removesuffix(".npy") for name in paths.names(path) if name.endswith(".npy")]
        return {int(stem) for stem in stems if stem.isdecimal()}

    def _path(self, folder: str, number: int) -> Path:
        return self._folder / folder / f"{number}.npy"

    def _read(self, folder: str, number: int) -> np.ndarray:
        return truth_file.read(self._path(folder, number))

    def _truth(self, folder: str, number: int, image: np.ndarray) -> np.ndarray:
        """An array [H, W], stored so or as [H, W, 1]."""
        stored = self._read(folder, number)
        stored = stored[..., 0] if stored.ndim == 3 and stored.shape[2] == 1 else stored
        if stored.shape != image.shape[:2]:
            shapes = f"{list(stored.shape)}, but its image is {list(image.shape[:2])}"
            raise UserError(f"{self._path(folder, number)}: is {shapes}")
        return stored
