"""How pictures and ground truth are brought to the size at which they are read: (H, W)."""

import cv2
import numpy as np


def picture(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture, uint8 [h, w, 3]: by area, or linearly if it is enlarged in any direction."""
    shrinks = size[0] <= pixels.shape[0] and size[1] <= pixels.shape[1]
    return _resize(pixels, size, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def truth(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize labels or a depth, [h, w]: each pixel is the one under its center, so that nothing is mixed."""
    return _resize(pixels, size, cv2.INTER_NEAREST_EXACT)  # plain INTER_NEAREST takes the corner, not the center


def _resize(pixels: np.ndarray, size: tuple[int, int], method: int) -> np.ndarray:
    return pixels if pixels.shape[:2] == tuple(size) else cv2.resize(pixels, size[::-1], interpolation=method)
