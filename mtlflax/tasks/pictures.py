"""Maps as pictures: class colours, depth colours, overlays, and the panel that a run writes at its evaluations."""

from collections.abc import Sequence

import cv2
import numpy as np

from mtlflax.data import units

# The value drawn in the brightest colour: a surface about 5 m away.
_NEAR = {"normalised_disparity": 0.37, "disparity": 95.0, "inverse_metres": 0.2, "metres": 0.2}


def segmentation_colours(ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class ids uint8 [H, W] and a palette uint8 [C, 3] → uint8 [H, W, 3]; ids beyond the palette are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[ids]


def depth_colours(values: np.ndarray, unit: str) -> np.ndarray:
    """Depth float32 [H, W] in a unit → uint8 [H, W, 3] RGB: near is bright, far is dark, exactly 0 is black.

    The scale is the same for every picture (the square root of inverse depth), so that pictures can be compared.
    """
    units.check(unit)
    unknown = values == 0
    if unit == "metres":
        values = 1 / np.maximum(values, 1e-3)
    share = np.sqrt(np.clip(values / _NEAR[unit], 0, 1))
    colours = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_MAGMA)[..., ::-1]
    return np.where(unknown[..., None], np.uint8(0), np.maximum(colours, np.uint8(1)))


def overlay(image: np.ndarray, colours: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Blends colours [H, W, 3] over an image of the same shape, both uint8 RGB; black stays the image."""
    blended = image * (1 - share) + colours * share
    return np.where(colours.any(axis=-1, keepdims=True), blended, image).astype(np.uint8)


def panel(rows: Sequence[Sequence[np.ndarray]], margin: int = 4) -> np.ndarray:
    """Pictures of one size, uint8 [H, W, 3], side by side in rows, on white."""
    height, width, _ = rows[0][0].shape
    columns = max(len(row) for row in rows)
    canvas = np.full(
        (len(rows) * (height + margin) + margin, columns * (width + margin) + margin, 3),
        255,
        np.uint8,
    )
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = margin + i * (height + margin), margin + j * (width + margin)
            canvas[top : top + height, left : left + width] = picture
    return canvas
