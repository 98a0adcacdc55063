"""What the values of a depth map mean, and the way between them and metres.

A `Unit` says how a value v becomes metres: scale · v + offset is the depth itself, or 1 / depth in an *inverse* unit,
or a disparity in pixels at full width in a *stereo* unit. That one needs the camera's focal length (pixels) times its
stereo baseline (metres), `focal_baseline`: depth = focal_baseline / disparity.

Cityscapes stores disparity as 16-bit codes p: 0 is "no measurement", 1 is "infinitely far" (disparity 0), and any other
p is a disparity of (p − 1) / 256 pixels in an image 2048 pixels wide.

| unit | value | infinitely far (code 1) |
|---|---|---|
| `normalised_disparity` | p / 65535 (MTAN's "inverse depth") | a valid 1 / 65535 |
| `disparity` | (p − 1) / 256, pixels at full width | no measurement |
| `inverse_metres` | disparity / focal_baseline, 1/m | no measurement |
| `metres` | focal_baseline / disparity, m | no measurement |
| `millimetres` | 1000 × metres, as 16-bit depth cameras store it | no measurement |

In every unit 0 stands for "no measurement". Functions work on NumPy and JAX arrays alike.
"""

import dataclasses
from typing import Any

import numpy as np

Array = Any  # a numpy or a jax array: this module imports neither jax nor jax.numpy

MAX_CODE = 65535
# Pixels nearer or farther than this are left out of every figure in metres (80 m is KITTI's habit, kept by all since).
MIN_METRES, MAX_METRES = 1e-3, 80.0


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of depth."""

    name: str  # as in `config.data.depth`
    scale: float = 1.0
    offset: float = 0.0  # where it is not 0, the value −offset / scale stands for "infinitely far"
    inverse: bool = False  # whether scale · v + offset is 1 / metres, or a disparity, rather than metres
    stereo: bool = False  # whether it is a disparity in pixels at full width; only with `inverse`
    # A common value, by which the output of a network's head, near 0 at first, is multiplied; 0: that of 25 m, or of 10
    # m for an inverse unit.
    typical: float = 0.0
    near: float = 0.0  # the value of a surface some 5 m away, drawn in the brightest color; 0: exactly 5 m's

    def __post_init__(self) -> None:
        """Fill in `typical` and `near`; raises ValueError for a scale that is not positive, or stereo alone."""
        if not 0 < self.scale < float("inf") or (self.stereo and not self.inverse):
            raise ValueError(f"unit {self.name!r}: give a positive scale, and `stereo` only with `inverse`")
        if self.stereo and not (self.typical and self.near):
            raise ValueError(f"unit {self.name!r}: a stereo unit needs `typical` and `near`")
        for attribute, metres in (("typical", 10 if self.inverse else 25), ("near", 5)):
            if not getattr(self, attribute):
                value = ((1 / metres if self.inverse else metres) - self.offset) / self.scale
                object.__setattr__(self, attribute, value)

    @property
    def infinity(self) -> float:
        """The value that stands for "infinitely far"; 0 where there is none."""
        return -self.offset / self.scale if self.inverse else 0.0

    def to_metres(self, values: Array, focal_baseline: Array = 1.0) -> Array:
        """Convert values to metres, possibly infinite; a disparity or inverse depth of 0 or less is infinitely far.

        Args:
            values: float32, a NumPy or JAX array. "No measurement" is not looked at: mask it before or after.
            focal_baseline: pixels × metres at full width, broadcastable to `values`; only a stereo unit reads it.
        """
        xp = values.__array_namespace__()
        linear = values if self.scale == 1 else values * self.scale
        linear = linear if self.offset == 0 else linear + self.offset
        if not self.inverse:
            return linear
        positive = (linear > 0) & (values > np.float32(self.infinity))
        numerator = focal_baseline if self.stereo else 1
        return xp.where(positive, numerator / xp.where(positive, linear, 1), xp.inf)

    def zoom(self, values: Array, factor: Array) -> Array:
        """Return the values of a scene that is `factor` times nearer, in their own dtype; 0 and infinity stay.

        A distance is divided by the factor; a disparity or an inverse depth is multiplied by it. `values` are a NumPy
        or JAX array, and `factor` is a number.
        """
        xp = values.__array_namespace__()
        s, origin = xp.asarray(factor, dtype=np.float32), np.float32(-self.offset / self.scale)
        real = values.astype(np.float32)
        if self.inverse:
            nearer = xp.where(real > origin, s * real + (1 - s) * origin, real)
        else:
            nearer = xp.where(real > 0, (real - origin) / s + origin, real)
        if np.issubdtype(values.dtype, np.integer):
            # A measurement stays one.
            nearer = xp.minimum(xp.maximum(xp.rint(nearer), values > 0), np.iinfo(values.dtype).max)
        return nearer.astype(values.dtype)


UNITS = {
    unit.name: unit
    for unit in (
        Unit("normalised_disparity", MAX_CODE / 256, -1 / 256, inverse=True, stereo=True, typical=1.0, near=0.37),
        Unit("disparity", inverse=True, stereo=True, typical=25.0, near=95.0),
        Unit("inverse_metres", inverse=True),
        Unit("metres"),
        Unit("millimetres", 1e-3),
    )
}


def get(name: str) -> Unit:
    """Return the unit of that name, or raise ValueError naming those there are."""
    if name not in UNITS:
        raise ValueError(f"unknown depth unit {name!r}: choose from {', '.join(UNITS)}")
    return UNITS[name]


def codes_to_unit(codes: np.ndarray, focal_baseline: float, unit: str) -> np.ndarray:
    """Convert Cityscapes' 16-bit disparity codes, uint16 of any shape, to a unit: float32, 0 = no measurement.

    `focal_baseline` is in pixels × metres at full width, needed for `inverse_metres`, `metres` and `millimetres`.
    ValueError for an unknown unit.
    """
    get(unit)
    if unit == "normalised_disparity":
        return codes.astype(np.float32) / np.float32(MAX_CODE)
    disparity = np.maximum(codes.astype(np.float32) - 1, 0) / np.float32(256)
    if unit == "disparity":
        return disparity
    if unit == "inverse_metres":
        return disparity / np.float32(focal_baseline)
    metres = np.divide(np.float32(focal_baseline), disparity, out=np.zeros_like(disparity), where=disparity > 0)
    return metres if unit == "metres" else metres * np.float32(1000)


def metres_to_codes(metres: np.ndarray, focal_baseline: float) -> np.ndarray:
    """Encode depth, positive or infinite, as Cityscapes does: uint16, 1 or 257 to 32257.

    Disparities below 1 pixel count as infinitely far, the largest is 126 pixels. `focal_baseline` is in pixels × metres
    at full width.
    """
    disparity = np.minimum(focal_baseline / metres, 126.0)
    return np.where(disparity < 1, 1, np.rint(disparity * 256) + 1).astype(np.uint16)
