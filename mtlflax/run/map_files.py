"""Predicted maps, as files: enlarged to the picture they are of, drawn, and written a strip at a time."""

import collections
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mtlflax.data import units
from mtlflax.files import write_bytes
from mtlflax.tasks import Task, pictures

# Cityscapes' first rig: focal length 2262.52 pixels at 2048 pixels width, baseline 0.209313 m.
FOCAL_BASELINE = 473.575
_STRIP = 64  # rows that are enlarged and drawn at a time


def enlarge(values: np.ndarray, size: tuple[int, int], rows: slice = slice(None)) -> np.ndarray:
    """Enlarges a map bilinearly, aligned by its outer edges: all of it, or some rows of the result.

    Args:
        values: float32 [h, w, channels].
        size: (H, W) of the whole result.
        rows: which of its rows to compute.

    Returns:
        float32 [number of rows, W, channels].

    >>> enlarge(np.array([[[0.0]], [[1.0]]], np.float32), (4, 1))[:, 0, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    last = len(values) - 1
    centres = np.clip((np.arange(size[0])[rows] + 0.5) * len(values) / size[0] - 0.5, 0, last)
    above = centres.astype(int)
    below = np.minimum(above + 1, last)
    share = (centres - above).astype(np.float32)[:, None, None]
    used = values[above[0] : below[-1] + 1]
    wide = cv2.resize(used, (size[1], len(used)), interpolation=cv2.INTER_LINEAR)
    wide = wide.reshape(len(used), size[1], -1)  # OpenCV drops an axis of one channel
    return wide[above - above[0]] * (1 - share) + wide[below - above[0]] * share


def write_maps(
    picture: np.ndarray,
    maps: dict[str, np.ndarray],
    tasks: Sequence[Task],
    config: ConfigDict,
    stem: Path,
    focal_baseline: float = FOCAL_BASELINE,
    *,
    raw: bool = False,
) -> None:
    """Write `stem` + `_segmentation.png` and so on; `mtlflax.predict` says what each is.

    Args:
        picture: uint8 [H, W, 3], RGB.
        maps: of that picture, from `predict.predict_picture`.
        tasks: of the run.
        config: of the run.
        stem: the files' common beginning.
        focal_baseline: pixels × metres, as on the command line.
        raw: write `stem` + `_depth.npy` too.

    Raises:
        UserError: the folder cannot be written.
    """
    height, width = picture.shape[:2]
    strips = collections.defaultdict(list)
    # All channels of all tasks at the size of a large photo would be gigabytes.
    for start in range(0, height, _STRIP):
        rows = slice(start, start + _STRIP)
        enlarged = {name: enlarge(values, (height, width), rows) for name, values in maps.items()}
        for name, strip in _draw(picture[rows], enlarged, tasks, config, focal_baseline).items():
            strips[name].append(strip)
    for name, parts in strips.items():
        if name.endswith(".npy"):
            if raw:
                buffer = io.BytesIO()
                np.save(buffer, np.concatenate(parts))
                write_bytes(stem.with_name(f"{stem.name}_{name}"), buffer.getvalue())
        else:
            encoded = cv2.imencode(".png", np.concatenate(parts))[1]
            write_bytes(stem.with_name(f"{stem.name}_{name}.png"), encoded.tobytes())


def _draw(
    picture: np.ndarray,
    maps: dict[str, np.ndarray],
    tasks: Sequence[Task],
    config: ConfigDict,
    focal_baseline: float,
) -> dict[str, np.ndarray]:
    """What the files show, from maps of the picture's size: name → uint8 or uint16, colours as OpenCV has them, BGR."""
    files: dict[str, np.ndarray] = {}
    colours: dict[str, np.ndarray] = {}
    for task in tasks:
        shown = np.asarray(task.picture(jnp.asarray(maps[task.name][None])))[0]
        colours[task.name] = task.colours(shown)
        if task.name == "segmentation":
            files["trainids"] = shown
            files["segmentation"] = colours[task.name][..., ::-1]
        elif task.name == "depth":
            metres = units.to_metres(maps["depth"][..., 0], np.float32(focal_baseline), config.data.depth)
            known = (metres > 0) & (metres * 256 < 65535)
            files["depth"] = np.where(known, np.rint(np.where(known, metres, 0) * 256), 0).astype(np.uint16)
            files["depth.npy"] = metres
            files["depth_color"] = colours[task.name][..., ::-1]
        else:
            files[task.name] = colours[task.name][..., ::-1]
    over = colours.get("segmentation", next(iter(colours.values())))
    files["overlay"] = pictures.overlay(picture, over)[..., ::-1]
    return files
