"""The units a depth map may have, and the way between them.

Cityscapes stores disparity as 16-bit codes p: 0 is "no measurement", 1 is "infinitely far" (disparity 0), and any other
p is a disparity of (p − 1) / 256 pixels in an image 2048 pixels wide. With the camera's focal length (pixels) times its
stereo baseline (metres), `focal_baseline`, the depth is focal_baseline / disparity.

| unit | value | infinitely far (code 1) |
|---|---|---|
| `normalised_disparity` | p / 65535 (MTAN's "inverse depth") | a valid 1 / 65535 |
| `disparity` | (p − 1) / 256, pixels at full width | no measurement |
| `inverse_metres` | disparity / focal_baseline, 1/m | no measurement |
| `metres` | focal_baseline / disparity, m | no measurement |

In every unit 0 stands for "no measurement". Functions work on NumPy and JAX arrays alike.
"""

from typing import Any

import numpy as np

Array = Any  # a numpy or a jax array: this module imports neither jax nor jax.numpy

UNITS = ("normalised_disparity", "disparity", "inverse_metres", "metres")
MAX_CODE = 65535
# Pixels nearer or farther than this are left out of every figure in metres (80 m is KITTI's habit, kept by all since).
MIN_METRES, MAX_METRES = 1e-3, 80.0


def check(unit: str) -> str:
    """Returns `unit`, or raises ValueError naming the four there are."""
    if unit not in UNITS:
        raise ValueError(f"unknown depth unit {unit!r}: choose one of {', '.join(UNITS)}")
    return unit


def codes_to_unit(codes: np.ndarray, focal_baseline: float, unit: str) -> np.ndarray:
    """Converts 16-bit disparity codes to a unit.

    Args:
        codes: uint16, any shape.
        focal_baseline: pixels × metres at full width; needed for `inverse_metres` and `metres`.
        unit: one of `UNITS`.

    Returns:
        float32 of the same shape, 0 = no measurement.

    Raises:
        ValueError: unknown unit.
    """
    check(unit)
    if unit == "normalised_disparity":
        return codes.astype(np.float32) / np.float32(MAX_CODE)
    disparity = np.maximum(codes.astype(np.float32) - 1, 0) / np.float32(256)
    if unit == "disparity":
        return disparity
    if unit == "inverse_metres":
        return disparity / np.float32(focal_baseline)
    return np.divide(np.float32(focal_baseline), disparity, out=np.zeros_like(disparity), where=disparity > 0)


def metres_to_codes(metres: np.ndarray, focal_baseline: float) -> np.ndarray:
    """Encodes depth as Cityscapes does: disparities below 1 pixel count as infinitely far, the largest is 126 pixels.

    Args:
        metres: float, any shape; positive, infinity allowed.
        focal_baseline: pixels × metres at full width.

    Returns:
        uint16 codes of the same shape: 1, or 257 to 32257.
    """
    disparity = np.minimum(focal_baseline / metres, 126.0)
    return np.where(disparity < 1, 1, np.rint(disparity * 256) + 1).astype(np.uint16)


def to_metres(values: Array, focal_baseline: Array, unit: str) -> Array:
    """Converts values of any unit to metres; a disparity of 0 or less is infinitely far.

    Args:
        values: float32, a numpy or jax array. "No measurement" is not looked at: mask it before or after.
        focal_baseline: broadcastable to `values`.
        unit: one of `UNITS`.

    Returns:
        Metres, of the same shape: positive, possibly infinite.
    """
    check(unit)
    xp = values.__array_namespace__()
    if unit == "metres":
        return values
    if unit == "inverse_metres":
        positive = values > 0
        return xp.where(positive, 1 / xp.where(positive, values, 1), xp.inf)
    disparity = (values * MAX_CODE - 1) / 256 if unit == "normalised_disparity" else values
    positive = disparity > 0
    return xp.where(positive, focal_baseline / xp.where(positive, disparity, 1), xp.inf)
