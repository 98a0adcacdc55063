"""Predictions in Cityscapes' official format: label ids, one 8-bit gray PNG a frame, at the size of its picture.

The evaluator (`csEvalPixelLevelSemanticLabeling`, `getPrediction` in its source) looks anywhere below the folder of
results for exactly one file `CITY_SEQUENCE_FRAME*.png` for each ground truth, and so does the test server
(github.com/mcordts/cityscapesScripts/issues/65). Values are label ids and not train ids.
"""

import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from mtlflax.data import labels
from mtlflax.data.source import Field, Labels
from mtlflax.errors import UserError
from mtlflax.files import write_bytes
from mtlflax.run import picture_files
from mtlflax.tasks import Task

ENDING = "_pred_labelIds.png"
_PICTURE = "_leftImg8bit.png"


def task(tasks: Iterable[Task], fields: Mapping[str, Field]) -> Task:
    """Return the task `segmentation`; UserError unless there is one that predicts the 19 train ids."""
    found = next((task for task in tasks if task.name == "segmentation"), None)
    if found is None:
        raise UserError("the official format holds label ids: this run has no task segmentation")
    read = [fields[name] for name in found.fields]
    names = next((field.names for field in read if isinstance(field, Labels)), ())
    if names != labels.TRAIN_NAMES or found.channels != len(names):
        raise UserError(
            "the official format holds label ids, which only Cityscapes' 19 train classes have; this run predicts "
            f"{found.channels} ({', '.join(names)}): train one with data.classes=19"
        )
    return found


def check_folder(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError if a folder holds a PNG file that the evaluator would take for another prediction for a frame."""
    frames = set(names)
    for path in sorted(folder.rglob("*.png")):
        frame = "_".join(path.stem.split("_")[:3])
        if frame in frames and path != folder / (frame + ENDING):
            raise UserError(
                f"{folder} holds {path.relative_to(folder)}, which the official evaluator would take for a prediction "
                "too: remove it, or give another folder"
            )


def write(folder: Path, name: str, train_ids: np.ndarray) -> None:
    """Write the prediction for a frame, integers [H, W] of 0 to 18, as `folder`/NAME_pred_labelIds.png, atomically."""
    encoded = cv2.imencode(".png", labels.LABEL_ID_LUT[train_ids])[1]
    write_bytes(folder / (name + ENDING), encoded.tobytes())


def find(pattern: str) -> tuple[list[Path], list[Path]]:
    """Return the pictures named as Cityscapes' below a folder, or among those of a pattern, and what is passed over.

    UserError if there are none, or two are of one frame.
    """
    others: list[Path] = []
    if Path(pattern).is_dir():
        found = glob.glob(f"{glob.escape(pattern)}/**/*{_PICTURE}", recursive=True)  # noqa: PTH207 (follows links)
        pictures = [Path(path) for path in sorted(found)]
    else:
        pictures, others = picture_files.find(pattern)
    others += [path for path in pictures if not path.name.endswith(_PICTURE)]
    pictures = [path for path in pictures if path.name.endswith(_PICTURE)]
    if not pictures:
        raise UserError(f"--images: no pictures CITY_SEQUENCE_FRAME{_PICTURE} at {pattern!r}, as --official needs them")
    frames: dict[str, Path] = {}
    for path in pictures:
        if frames.setdefault(path.name, path) != path:
            raise UserError(f"--images: {path} and {frames[path.name]} are of one frame: give one of them")
    return pictures, others


def output_names(pictures: Sequence[Path]) -> list[Path]:
    """Return the frames' names, as Cityscapes has them.

    >>> output_names([Path("test/bonn/bonn_000004_000019_leftImg8bit.png")])[0].name
    'bonn_000004_000019'
    """
    return [Path(path.name.removesuffix(_PICTURE)) for path in pictures]
