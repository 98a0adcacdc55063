"""Random batches, and comparing trees of arrays."""

import jax
import numpy as np

from mtlflax.data import labels, units
from mtlflax.data.source import Depth, Field, Image, Labels, Number

SIZE = (32, 64)


def make_fields(unit: str = "normalised_disparity", classes: int = 19) -> dict[str, Field]:
    """Return the fields that `cityscapes.Cityscapes` declares."""
    return {
        "image": Image(aspect=2.0),
        "segmentation": Labels(labels.table(classes), labels.IGNORE),
        "depth": Depth(units.get(unit)),
        "focal_baseline": Number(),
    }


FIELDS = make_fields()


def make_batch(seed: int, count: int = 8, size: tuple[int, int] = SIZE) -> dict[str, np.ndarray]:
    """Random pictures whose frames hold very different numbers of valid pixels, none in the last two."""
    rng = np.random.default_rng(seed)
    height, width = size
    labels = rng.integers(0, 19, (count, height, width)).astype(np.uint8)
    depth = rng.uniform(0.01, 0.4, (count, height, width, 1)).astype(np.float32)
    for i in range(count):
        unknown = rng.random((height, width)) < i / (count - 2)
        labels[i][unknown] = 255
        depth[i][unknown] = 0
    return {
        "image": rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8),
        "segmentation": labels,
        "depth": depth,
        "focal_baseline": np.full(count, 473.6, np.float32),
        "mask": np.ones(count, np.float32),
    }


def assert_close(a, b, rtol: float, atol: float) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)
