"""Figures of what is in a data set, drawn by Matplotlib (the extra `report`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtlflax.data.source import Depth, Field, Labels, Sample
from mtlflax.data.statistics.counting import EDGES, ClassCounts, DepthCounts
from mtlflax.errors import UserError

try:
    from matplotlib.figure import Figure
except ImportError:  # the extra `report` is not installed
    Figure = None  # type: ignore[assignment, misc]

_WIDEST = 480  # pixels of a picture
_GRAYS = ("0.55", "0.75", "0.9")  # of the splits behind the first


def check() -> None:
    """Raise UserError if Matplotlib is not installed."""
    if Figure is None:
        raise UserError("the figures need Matplotlib: pip install -e '.[report]', or pip install matplotlib")


def classes(path: Path, field: Labels, splits: Mapping[str, ClassCounts]) -> None:
    """Draw in how many frames each class occurs, and the mean area that it covers there: two panels of bars."""
    count = len(field.classes)
    figure = Figure(figsize=(10, 1.2 + 0.22 * count), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(splits)
    own: Any = [tuple(channel / 255 for channel in c.color) for c in field.classes]
    for number, (counts, color) in enumerate(zip(splits.values(), [own, *_GRAYS], strict=False)):
        places, frames = np.arange(count) + number * height, counts.frames[:-1]
        area = 100 * counts.shares[:-1] / np.maximum(frames, 1)
        for axes, values in ((left, 100 * frames / max(1, counts.total)), (right, area)):
            axes.barh(places, values, height=height, color=color, edgecolor="0.3", linewidth=0.4)
    left.set_yticks(np.arange(count) + height * (len(splits) - 1) / 2, field.names)
    left.invert_yaxis()
    first, *rest = splits
    left.set_xlabel(f"% of the frames have the class ({first} in color{''.join(f', {s} gray' for s in rest)})")
    right.set_xlabel("% of the pixels of these frames, on average")
    _save(figure, path)


def depth(path: Path, field: Depth, splits: Mapping[str, DepthCounts]) -> None:
    """Draw the histogram of a depth, and how much of a frame is measured."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = np.flatnonzero(np.sum([counts.histogram for counts in splits.values()], axis=0))
    if drawn.size:
        first, last = drawn[0], drawn[-1] + 1
        for split, counts in splits.items():
            share = 100 * counts.histogram / max(1, counts.measured)
            left.stairs(share[first:last], EDGES[first : last + 1], label=split)
        left.set_xscale("log")
        left.legend(frameon=False)
    left.set_xlabel("metres" if all(counts.in_metres for counts in splits.values()) else field.unit.name)
    left.set_ylabel("% of the measured pixels")
    shares = [100 * np.array(counts.per_frame) for counts in splits.values()]
    right.hist(shares, bins=[float(edge) for edge in range(0, 101, 5)], label=list(splits))
    right.set_xlabel("% of a frame's pixels that are measured")
    right.set_ylabel("frames")
    _save(figure, path)


def views(path: Path, samples: Sequence[Sample], fields: Mapping[str, Field]) -> None:
    """Draw frames, a row each: the image, and each label map and depth in colors."""
    shown = ["image", *(name for name, field in fields.items() if isinstance(field, Labels | Depth))]
    rows = []
    for sample in samples:
        height, width, _ = sample["image"].shape
        blank = np.full((height, width, 3), 255, np.uint8)
        row = [_drawn(sample[name], fields[name]) if name in sample else blank for name in shown]
        scale = min(1.0, _WIDEST / width)
        size = (max(1, round(scale * width)), max(1, round(scale * height)))
        rows.append(np.hstack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in row]))
    widest = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 4), (0, widest - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    if not cv2.imwrite(str(path), np.vstack(padded)[..., ::-1]):
        raise UserError(f"cannot write {path}")


def _save(figure: Any, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _drawn(values: np.ndarray, field: Field) -> np.ndarray:
    """A field's values in colors, uint8 [H, W, 3], RGB; black is unknown."""
    if isinstance(field, Labels):
        count = len(field.classes)
        palette = np.concatenate([field.colors, np.zeros((1, 3), np.uint8)])
        return palette[np.where((values >= 0) & (values < count), values, count)]
    if isinstance(field, Depth):
        known = field.measured(values)[..., 0]
        # Near is bright in every unit, on a logarithmic scale between the nearest and the farthest of the frame.
        logs = np.log(np.where(known, values[..., 0], 1).astype(np.float64)) * (1 if field.unit.inverse else -1)
        low, high = (logs[known].min(), logs[known].max()) if known.any() else (0.0, 1.0)
        share = np.clip((logs - low) / max(high - low, 1e-9), 0, 1)
        colors = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_MAGMA)[..., ::-1]
        return np.where(known[..., None], np.maximum(colors, 1), 0).astype(np.uint8)
    return values
