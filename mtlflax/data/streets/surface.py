"""Samples on surfaces, and the building blocks of procedural textures.

Coordinates are meters on the face (u along it, v up from its lower edge), so textures are in perspective without
further work. Patterns finer than a sample fade into their mean.
"""

import enum
from typing import NamedTuple

import numpy as np

from mtlflax.data.streets.noise import noise, sample

_HASH = np.random.Generator(np.random.PCG64(11)).random(1024, dtype=np.float32)


class Material(enum.IntEnum):
    """The material of a part."""

    PLAIN = 0
    FACADE = 1
    ROOF = 2
    BRICKS = 3
    FENCE = 4
    LEAVES = 5
    HEDGE = 6
    BARK = 7
    CLOTH = 8
    CAR = 9
    GLASS = 10
    COACH = 11
    PANELS = 12
    WHEEL = 13
    SPOKES = 14
    SIGN = 15
    SIGNAL = 16


SEE_THROUGH = (Material.FENCE, Material.SPOKES)


class Surface(NamedTuple):
    """N samples on parts of the same material.

    Attributes:
        u: float32 [N], meters along the face.
        v: float32 [N], meters up the face.
        kind: uint8 [N], the direction of the face (SIDE, TOP, … of `shapes`).
        pixel: float32 [N], meters that a sample covers, perpendicular to the line of sight.
        slant: float32 [N], meters that a sample covers along `u`, which grow as the face is seen at a flatter angle.
        color: float32 [3, N], the main color of the part.
        accent: float32 [3, N], its second color.
        params: float32 [4, N], the parameters of the material.
        part: int64 [N], index of the part.
        lamps: 0 by day, 1 at dusk.
    """

    u: np.ndarray
    v: np.ndarray
    kind: np.ndarray
    pixel: np.ndarray
    slant: np.ndarray
    color: np.ndarray
    accent: np.ndarray
    params: np.ndarray
    part: np.ndarray
    lamps: float


# Albedo [3, N], and emitted light [3, N] or None.
Shaded = tuple[np.ndarray, np.ndarray | None]


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """Return a color that broadcasts over samples: float32 [3, 1]."""
    return np.array([[red], [green], [blue]], np.float32)


def hashed(*numbers: np.ndarray) -> np.ndarray:
    """Return a pseudo-random number in [0, 1) for each tuple of whole numbers: float32 [N]."""
    key = np.zeros(numbers[0].shape, np.int32)
    for number, prime in zip(numbers, (73, 179, 37), strict=False):
        key += number.astype(np.int32) * prime
    return _HASH[key & 1023]


def cover(distance: np.ndarray, reach: np.ndarray | float, pixel: np.ndarray) -> np.ndarray:
    """Return the share of a sample that lies within `reach` of a line; `distance` is that of its center."""
    return np.clip((reach - distance) / pixel + np.float32(0.5), 0, 1)


def stripe(distance: np.ndarray, half: np.ndarray | float, pixel: np.ndarray) -> np.ndarray:
    """Return the share of a sample that a stripe covers; unlike in `cover`, it may be narrower than the sample."""
    return np.minimum(cover(distance, half, pixel), 2 * half / pixel)


def mix(color: np.ndarray, other: np.ndarray | float, share: np.ndarray) -> np.ndarray:
    """Blend two colors [3, N] by shares [N]."""
    return color + share * (other - color)


def stains(s: Surface, scale: float, strength: float, slope: float = 1) -> np.ndarray:
    """Return brightness factors around 1 that vary over a face, with `scale` texels per meter: float32 [N]."""
    shift = (s.part * 61 % 509).astype(np.float32)
    value = sample(noise(slope), s.u * scale + shift, s.v * scale + shift)
    return 1 + np.float32(strength) * value / (1 + s.pixel * scale)
