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


def sparse(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map that is 0 at most pixels, [h, w]: each pixel takes what is nearest to its center, of what is in it.

    Enlarged, every value comes once. Nothing is mixed.
    """
    rows, columns = np.nonzero(pixels)
    places, offsets = [], np.zeros(len(rows))
    for position, (old, new) in zip((rows, columns), zip(pixels.shape, size, strict=True), strict=True):
        exact = (position + 0.5) * (new / old)
        places.append(np.minimum(exact.astype(np.intp), new - 1))
        offsets += np.square((exact - places[-1] - 0.5) * (old / new))
    order = np.argsort(-offsets, kind="stable")  # the nearest last: it stays
    result = np.zeros(size, pixels.dtype)
    result[places[0][order], places[1][order]] = pixels[rows[order], columns[order]]
    return result
