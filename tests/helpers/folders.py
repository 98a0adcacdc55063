"""Data sets in folders, as users have them: tiny and made up."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

SIZE = (24, 40)


def write(root: Path, files: Mapping[str, np.ndarray]) -> Path:
    """Write arrays as pictures, colors RGB, or `.npy` files: path → array."""
    for name, values in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, values)
        else:
            assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)
    return root


def image(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def labels(seed: int, classes: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, size).astype(np.uint8)


def depth(seed: int, size: tuple[int, int] = SIZE, *, measured: float = 0.9) -> np.ndarray:
    """Codes of 16 bits, 0 where nothing is measured."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(size) < measured, rng.integers(500, 9000, size), 0).astype(np.uint16)


def photos(root: Path, count: int = 10) -> Path:
    """Ten photos with masks 0 to 4 and depth in millimetres."""
    for n in range(count):
        frame = {
            f"images/{n}.jpg": image(n),
            f"segmentation/{n}.png": labels(n, 5),
            f"depth/{n}.png": depth(n),
        }
        write(root, frame)
    return root
