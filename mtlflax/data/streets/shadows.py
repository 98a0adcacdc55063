"""Shadows on the ground, as a map of it seen from above: each solid's outline, moved along the sun's rays."""

from typing import NamedTuple

import cv2
import numpy as np

from mtlflax.data.streets.dice import sample
from mtlflax.data.streets.geometry import Geometry
from mtlflax.data.streets.scene import Scene, column

TEXEL = 0.125  # metres
SIZE = 768  # texels along either side of the map
LEFT, NEAR = -SIZE / 2 * TEXEL, -2.0  # world x and z of its corner
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
FAR = 70.0  # small things further away cast none that could be seen
_BIG = (11, 12, 21)  # label ids that shade what stands beneath: buildings, walls, trees


class Shadows(NamedTuple):
    """Where the sun does not reach.

    Attributes:
        map: uint8 [768, 768, 2], rows along z, columns along x: 255 = in full shadow of the sun; and
            likewise for the skylight that things standing on the ground keep away.
        lit: float32 [P], how much of the sun falls on each part (by what big things shade).
    """

    map: np.ndarray
    lit: np.ndarray


def _draw(canvas: np.ndarray, outlines: np.ndarray) -> None:
    """Fills the hulls of [P, n, 2] world points (x, z)."""
    # Four more bits place corners between texels.
    points = ((outlines - (LEFT, NEAR)) / TEXEL * 16).clip(-1e5, 1e5).astype(np.int32)
    for outline in points:
        cv2.fillConvexPoly(canvas, cv2.convexHull(outline), 255, cv2.LINE_8, 4)


def look_up(picture: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Reads a map at world points: float32 [N] or [N, 2], 0 to 1; nothing is shaded outside."""
    column = ((x - np.float32(LEFT)) / TEXEL).astype(np.float32)
    row = ((z - np.float32(NEAR)) / TEXEL).astype(np.float32)
    inside = (column > 0) & (column < SIZE - 1) & (row > 0) & (row < SIZE - 1)
    values = sample(picture, column, row)
    return values * (inside * np.float32(1 / 255)).reshape(-1, *(1,) * (values.ndim - 1))


def build(scene: Scene, geometry: Geometry) -> Shadows:
    """Draws the maps of a scene."""
    parts, to_sun = scene.parts, scene.light.to_sun
    half = column(parts, "half_x", "half_y", "half_z")
    middle = column(parts, "x", "y", "z")
    corners = np.einsum("pij,pkj->pki", geometry.rotation, _CORNERS * half[:, None] * 0.96)
    corners += middle[:, None]
    ground = corners[..., (0, 2)]
    length = np.minimum(1 / to_sun[1], 4.0)  # shadows at dusk would cover everything
    fallen = ground - corners[..., 1:2] * to_sun[[0, 2]] * length
    near = (middle[:, 2] > -15) & (middle[:, 2] < SIZE * TEXEL) & (np.abs(middle[:, 0]) < 60)
    big = near & np.isin(column(parts, "label"), _BIG)
    cast = np.zeros((SIZE, SIZE), np.uint8)
    _draw(cast, fallen[big])
    lit = 1 - 0.85 * look_up(cast, *(middle[:, i].astype(np.float32) for i in (0, 2)))
    # Tall things reach out of the shadow that their foot stands in.
    lit = np.where(column(parts, "half_y") > 2, 1, lit).astype(np.float32)
    small = near & (middle[:, 2] < FAR)
    _draw(cast, fallen[small & ~big])
    contact = np.zeros((SIZE, SIZE), np.uint8)
    low = small & (middle[:, 1] - half[:, 1] < 0.6) & (half[:, 1] < 12)
    _draw(contact, ground[low])
    return Shadows(np.dstack([cv2.blur(cast, (3, 3)), cv2.blur(contact, (7, 7))]), lit)
