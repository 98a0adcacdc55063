"""A source with fields of every kind."""

import numpy as np

from mtlflax.data import units
from mtlflax.data.source import Depth, Field, Image, Labels, Map, Number

EVERY: dict[str, Field] = {
    "image": Image(),
    "segmentation": Labels((), ignore=255),
    "wide": Labels((), ignore=-1, dtype="int32"),
    "depth": Depth(units.get("metres")),
    "normals": Map(3, unknown=float("nan")),
    "focal_baseline": Number(),
}


class Every:
    """Frames with fields of every kind; every third lacks some."""

    fields = EVERY

    def __init__(self, length=5, depth=lambda rng: rng.uniform(0, 90, (8, 16, 1))):
        self.names, self._depth = [f"frame {i}" for i in range(length)], depth

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        sample = {
            "image": rng.integers(0, 256, (8, 16, 3)).astype(np.uint8),
            "segmentation": rng.integers(0, 256, (8, 16)).astype(np.uint8),
            "wide": rng.integers(-1, 10**6, (8, 16)).astype(np.int32),
            "depth": self._depth(rng).astype(np.float32),
            "normals": rng.normal(size=(8, 16, 3)).astype(np.float32),
            "focal_baseline": np.float32(rng.random()),
            "name": self.names[index],
        }
        if index % 3 == 2:
            del sample["wide"], sample["normals"]
        return sample
