"""Pictures of maps: overlays, and the panel that a run writes at its evaluations."""

from collections.abc import Sequence

import numpy as np

_MARGIN = 4  # pixels between the pictures of a panel
_RIGHT, _WRONG = np.array([[225] * 3, [200, 20, 20]], np.float32)


def overlay(image: np.ndarray, colors: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Blend colors [H, W, 3] over an image of the same shape, both uint8 RGB; black stays the image."""
    blended = image * (1 - share) + colors * share
    return np.where(colors.any(axis=-1, keepdims=True), blended, image).astype(np.uint8)


def errors(share: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Draw how far predictions are off, from light gray (right: 0) to red (wrong: 1 or more); black is unknown.

    `share` is [H, W], numbers or bool, and `known` bool [H, W]. Returns uint8 [H, W, 3], RGB.
    """
    wrong = np.clip(np.nan_to_num(share.astype(np.float32), nan=1.0), 0, 1)[..., None]
    drawn = (1 - wrong) * _RIGHT + wrong * _WRONG
    return np.where(known[..., None], drawn, 0).astype(np.uint8)


def panel(rows: Sequence[Sequence[np.ndarray]], margin: int = _MARGIN) -> np.ndarray:
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


def cut(canvas: np.ndarray, size: tuple[int, int], margin: int = _MARGIN) -> list[list[np.ndarray]]:
    """Undo `panel`: return its rows of pictures of size (H, W), each row as long as the longest."""
    height, width = size
    tops = range(margin, canvas.shape[0] - height + 1, height + margin)
    lefts = range(margin, canvas.shape[1] - width + 1, width + margin)
    return [[canvas[top : top + height, left : left + width] for left in lefts] for top in tops]
