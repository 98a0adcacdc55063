"""Check an exported network against the network itself."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mtlflax.errors import UserError

# Allowed difference, as a share of the task's largest output where that exceeds 1.
TOLERANCE = 1e-4

Predict = Callable[[Any], dict[str, Any]]


def check(exported: Predict, network: Predict, size: tuple[int, int]) -> float:
    """Return the largest difference between the outputs of an exported network and of the network.

    Both get a smooth picture and a noisy one alone, then three pictures at once. A difference is divided by the largest
    absolute output of that task and batch if this exceeds 1.

    Args:
        exported: uint8 [B, H, W, 3] → task → float32 [B, H, W, channels].
        network: the same, as it should be.
        size: (H, W).

    Raises:
        UserError: they differ by more than `TOLERANCE`, or in shape or dtype; it says by how much and where.
    """
    worst = 0.0
    for title, images in batches(size):
        expected, actual = network(images), exported(images)
        if expected.keys() != actual.keys():
            raise UserError(f"the exported network has the outputs {sorted(actual)}, the network {sorted(expected)}")
        for task, values in expected.items():
            a, b = np.asarray(values), np.asarray(actual[task])
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                raise UserError(f"{task} for {title} is exported as {b.dtype} {b.shape} instead of {a.dtype} {a.shape}")
            difference = _difference(a, b)
            place = np.unravel_index(np.argmax(difference), a.shape)
            largest = float(difference[place])
            if not largest <= TOLERANCE:
                where = ", ".join(map(str, place))
                raise UserError(
                    f"the exported network is another: {task}[{where}] for {title} is {b[place]:.7g} instead of "
                    f"{a[place]:.7g}; {largest:.2g} apart, where {TOLERANCE:g} is allowed. Nothing was written"
                )
            worst = max(worst, largest)
    return worst


def batches(size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield titles and batches of pictures, uint8 [B, H, W, 3], of 1, 1 and 3."""
    rows, columns = np.mgrid[: size[0], : size[1]] / np.array(size).reshape(2, 1, 1)
    # Bright above and dark below, as a street is, with a change of color from left to right.
    smooth = np.stack([1 - rows, (1 - rows) * columns + rows / 2, columns], axis=-1)
    noise = np.random.default_rng(0).random((2, *size, 3))
    pictures = np.rint(255 * np.stack([smooth, *noise])).astype(np.uint8)
    yield "a smooth picture", pictures[:1]
    yield "a picture of noise", pictures[1:2]
    yield "a smooth picture and two of noise", pictures


def _difference(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """|actual − expected| / max(1, the largest |expected|); 0 where both are NaN, infinity where one is."""
    finite = np.abs(expected[np.isfinite(expected)])
    with np.errstate(invalid="ignore"):
        difference = np.abs(actual - expected) / max(1.0, float(finite.max(initial=0)))
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    return np.where(same, 0, np.where(np.isnan(difference), np.inf, difference))
