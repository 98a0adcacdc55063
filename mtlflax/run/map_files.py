"""Predicted maps, as files: enlarged to the picture they are of, drawn, and written a strip at a time."""

import collections
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np

from mtlflax.files import write_bytes
from mtlflax.tasks import Task, pictures

# Cityscapes' first rig: focal length 2262.52 pixels at 2048 pixels width, baseline 0.209313 m.
FOCAL_BASELINE = 473.575
_STRIP = 64  # rows that are enlarged and drawn at a time


def enlarge(values: np.ndarray, size: tuple[int, int], rows: slice = slice(None)) -> np.ndarray:
    """Enlarge a map, float32 [h, w, channels], bilinearly to (H, W), aligned by its outer edges; or some of its rows.

    >>> enlarge(np.array([[[0.0]], [[1.0]]], np.float32), (4, 1))[:, 0, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    last = len(values) - 1
    centers = np.clip((np.arange(size[0])[rows] + 0.5) * len(values) / size[0] - 0.5, 0, last)
    above = centers.astype(int)
    below = np.minimum(above + 1, last)
    share = (centers - above).astype(np.float32)[:, None, None]
    used = values[above[0] : below[-1] + 1]
    wide = cv2.resize(used, (size[1], len(used)), interpolation=cv2.INTER_LINEAR)
    wide = wide.reshape(len(used), size[1], -1)  # OpenCV drops an axis of one channel
    return wide[above - above[0]] * (1 - share) + wide[below - above[0]] * share


def write_maps(
    picture: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    tasks: Sequence[Task],
    stem: Path,
    focal_baseline: float = FOCAL_BASELINE,
    *,
    raw: bool = False,
) -> None:
    """Write `stem` + `_segmentation.png` and so on; `mtlflax.predict` says what each is.

    Args:
        picture: uint8 [H, W, 3], RGB.
        predictions: task → float32 [h, w, channels], from `predictor.predict_picture`.
        tasks: that were predicted.
        stem: the files' common beginning.
        focal_baseline: pixels × metres, as on the command line.
        raw: whether maps of floats are written too, as `.npy`; UserError if the folder cannot be written.
    """
    for name, values in draw_maps(picture, predictions, tasks, focal_baseline).items():
        path = stem.with_name(f"{stem.name}_{name}")
        if np.issubdtype(values.dtype, np.floating):
            if raw:
                buffer = io.BytesIO()
                np.save(buffer, values)
                write_bytes(path.with_name(path.name + ".npy"), buffer.getvalue())
        else:
            bgr = values[..., ::-1] if values.ndim == 3 else values
            write_bytes(path.with_name(path.name + ".png"), cv2.imencode(".png", bgr)[1].tobytes())


def draw_maps(
    picture: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    tasks: Sequence[Task],
    focal_baseline: float = FOCAL_BASELINE,
) -> dict[str, np.ndarray]:
    """Return what `write_maps` writes, at the picture's size: name → [H, W], or RGB [H, W, 3]."""
    height, width = picture.shape[:2]
    strips = collections.defaultdict(list)
    # All channels of all tasks at the size of a large photo would be gigabytes.
    for start in range(0, height, _STRIP):
        rows = slice(start, start + _STRIP)
        enlarged = {name: enlarge(values, (height, width), rows) for name, values in predictions.items()}
        for name, strip in _draw(picture[rows], enlarged, tasks, focal_baseline).items():
            strips[name].append(strip)
    return {name: np.concatenate(parts) for name, parts in strips.items()}


def _draw(
    picture: np.ndarray, predictions: Mapping[str, np.ndarray], tasks: Sequence[Task], focal_baseline: float
) -> dict[str, np.ndarray]:
    """The same from predictions of the picture's size."""
    files: dict[str, np.ndarray] = {}
    classes: list[np.ndarray] = []
    others: list[np.ndarray] = []
    for task in tasks:
        values = predictions[task.name]
        shown = np.asarray(task.picture(jnp.asarray(values[None])))[0]
        drawn = task.colors(shown)
        (classes if np.issubdtype(shown.dtype, np.integer) else others).append(drawn)
        files |= task.files(values, focal_baseline) if task.files else {task.name: drawn}
    files["overlay"] = pictures.overlay(picture, [*classes, *others][0])  # class colors, if there are any
    return files
