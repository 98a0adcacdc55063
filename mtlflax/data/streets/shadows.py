"""Shadows: a map of the ground from above, with the outline of each solid projected along the sun's rays."""

from typing import NamedTuple

import cv2
import numpy as np

from mtlflax.data.streets.label_ids import BUILDING, VEGETATION, WALL
from mtlflax.data.streets.noise import sample
from mtlflax.data.streets.projection import Projection
from mtlflax.data.streets.scene import Scene, column
from mtlflax.data.streets.shapes import CUBE_CORNERS

TEXEL = 0.125  # meters
SIZE = 768  # texels per side of the map
LEFT, NEAR = -SIZE / 2 * TEXEL, -2.0  # world x and z of the corner of the map
FAR = 70.0  # meters; small objects beyond this cast no shadow
_BIG = (BUILDING, WALL, VEGETATION)  # labels that shade the objects beneath, not only the ground


class Shadows(NamedTuple):
    """The shadows of a scene.

    Attributes:
        map: uint8 [768, 768, 2], rows along z, columns along x: how much sunlight, and how much skylight, objects block
            from the ground; 255 = all.
        lit: float32 [P], share of the sunlight that big objects let through to each part.
    """

    map: np.ndarray
    lit: np.ndarray


def _draw(canvas: np.ndarray, outlines: np.ndarray) -> None:
    """Fill the convex hulls of world points (x, z), [P, n, 2]."""
    # Four fractional bits give corners subtexel precision.
    points = ((outlines - (LEFT, NEAR)) / TEXEL * 16).clip(-1e5, 1e5).astype(np.int32)
    for outline in points:
        cv2.fillConvexPoly(canvas, cv2.convexHull(outline), 255, cv2.LINE_8, 4)


def look_up(shadow_map: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Sample a map at world points: float32 [N] or [N, 2], 0 to 1; 0 outside the map."""
    column = ((x - np.float32(LEFT)) / TEXEL).astype(np.float32)
    row = ((z - np.float32(NEAR)) / TEXEL).astype(np.float32)
    inside = (column > 0) & (column < SIZE - 1) & (row > 0) & (row < SIZE - 1)
    values = sample(shadow_map, column, row)
    return values * (inside * np.float32(1 / 255)).reshape(-1, *(1,) * (values.ndim - 1))


def build(scene: Scene, projection: Projection) -> Shadows:
    """Draw the shadow map of a scene."""
    parts, to_sun = scene.parts, scene.light.to_sun
    half = column(parts, "half_x", "half_y", "half_z")
    middle = column(parts, "x", "y", "z")
    corners = np.einsum("pij,pkj->pki", projection.rotation, CUBE_CORNERS * half[:, None] * 0.96)
    corners += middle[:, None]
    ground = corners[..., (0, 2)]
    length = np.minimum(1 / to_sun[1], 4.0)  # at dusk shadows would cover everything
    fallen = ground - corners[..., 1:2] * to_sun[[0, 2]] * length
    near = (middle[:, 2] > -15) & (middle[:, 2] < SIZE * TEXEL) & (np.abs(middle[:, 0]) < 60)
    big = near & np.isin(column(parts, "label"), _BIG)
    cast = np.zeros((SIZE, SIZE), np.uint8)
    _draw(cast, fallen[big])
    lit = 1 - 0.85 * look_up(cast, *(middle[:, i].astype(np.float32) for i in (0, 2)))
    # Tall objects rise above the shadow at their foot.
    lit = np.where(column(parts, "half_y") > 2, 1, lit).astype(np.float32)
    small = near & (middle[:, 2] < FAR)
    _draw(cast, fallen[small & ~big])
    contact = np.zeros((SIZE, SIZE), np.uint8)
    low = small & (middle[:, 1] - half[:, 1] < 0.6) & (half[:, 1] < 12)
    _draw(contact, ground[low])
    return Shadows(np.dstack([cv2.blur(cast, (3, 3)), cv2.blur(contact, (7, 7))]), lit)
