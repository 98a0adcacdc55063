"""Pictures of maps: overlays, and the panel that a run writes at its evaluations."""

from collections.abc import Sequence

import numpy as np


def overlay(image: np.ndarray, colors: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Blend colors [H, W, 3] over an image of the same shape, both uint8 RGB; black stays the image."""
    blended = image * (1 - share) + colors * share
    return np.where(colors.any(axis=-1, keepdims=True), blended, image).astype(np.uint8)


def panel(rows: Sequence[Sequence[np.ndarray]], margin: int = 4) -> np.ndarray:
    """Put pictures of one size, uint8 [H, W, 3], side by side in rows, on white."""
    height, width, _ = rows[0][0].shape
    columns = max(len(row) for row in rows)
    size = (len(rows) * (height + margin) + margin, columns * (width + margin) + margin, 3)
    canvas = np.full(size, 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = margin + i * (height + margin), margin + j * (width + margin)
            canvas[top : top + height, left : left + width] = picture
    return canvas
