"""A source of frames made of their numbers."""

import numpy as np

from mtlflax.errors import UserError


class Frames:
    """Frames made from their number, which is also the least label and the name."""

    def __init__(self, length, broken=None, sizes=(8,)):
        self.length, self.broken, self.sizes = length, broken, sizes

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        if index == self.broken:
            raise UserError(f"frame_{index}.png: is truncated")
        rng = np.random.default_rng(index)
        height = self.sizes[index % len(self.sizes)]
        return {
            "image": rng.integers(0, 256, (height, 16, 3), np.uint8),
            "segmentation": np.full((height, 16), index, np.uint8),
            "depth": rng.random((height, 16, 1), np.float32),
            "focal_baseline": np.float32(index),
            "name": f"frame_{index}",
        }
