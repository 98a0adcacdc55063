"""Convex solids, each an intersection of half-spaces.

A solid fits into about [-1, 1]³ and is scaled, tilted, turned, and moved into the scene. Everything in a scene is one
of these, except for the ground, the sky, and ellipsoids.
"""

import math
from typing import NamedTuple

import numpy as np

SIDE, TOP, BOTTOM, FRONT, BACK = range(5)
MAX_PLANES = 14
CUBE_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)

Polygon = list[tuple[float, float]]


class Shape(NamedTuple):
    """The points p with normals · p ≤ offsets.

    Attributes:
        normals: float64 [14, 3]; unused rows are 0 and constrain nothing.
        offsets: float64 [14].
        kinds: int64 [14]: SIDE (±x), TOP, BOTTOM (±y), FRONT (+z), or BACK (−z), from the normal.
        planes: number of rows in use.
    """

    normals: np.ndarray
    offsets: np.ndarray
    kinds: np.ndarray
    planes: int


def _shape(planes: list[tuple[float, float, float, float]]) -> Shape:
    normals, offsets = np.zeros((MAX_PLANES, 3)), np.ones(MAX_PLANES)
    table = np.array(planes)
    normals[: len(planes)], offsets[: len(planes)] = table[:, :3], table[:, 3]
    axis = np.abs(normals).argmax(1)
    positive = np.take_along_axis(normals, axis[:, None], 1)[:, 0] > 0
    kinds = np.select([axis == 0, (axis == 1) & positive, axis == 1, positive], [SIDE, TOP, BOTTOM, FRONT], BACK)
    return Shape(normals, offsets, kinds, len(planes))


def _extruded(polygon: Polygon, axis: str, slant: float = 0) -> Shape:
    """Extrude a polygon along an axis; it is given counterclockwise in the other two axes, in their order.

    With a slant the two end faces lean inward at the top (axis x only).
    """
    planes: list[tuple[float, float, float, float]] = []
    for (a0, b0), (a1, b1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        na, nb = b1 - b0, a0 - a1
        offset = na * a0 + nb * b0
        order = {"x": (0.0, na, nb), "y": (na, 0.0, nb), "z": (na, nb, 0.0)}[axis]
        planes.append((*order, offset))
    ends = {"x": (1.0, slant, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}[axis]
    planes.append((*ends, 1 - slant))
    planes.append((-ends[0], ends[1] if axis == "x" else -ends[1], -ends[2], 1 - slant))
    return _shape(planes)


def _regular(corners: int, start: float = 0.5) -> Polygon:
    # Circumscribed about the unit circle, so that round objects are not too thin.
    radius = 1 / math.cos(math.pi / corners)
    angles = [(start + i) * 2 * math.pi / corners for i in range(corners)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _side_view(points: Polygon, slant: float = 0) -> Shape:
    """Make a vehicle part from its side view, a clockwise polygon of (z, y) with the front at z = 1."""
    return _extruded([(y, z) for z, y in points], "x", slant)


SHAPES = {
    "box": _extruded([(-1, -1), (1, -1), (1, 1), (-1, 1)], "z"),
    "ellipsoid": _shape([(0, 0, 0, 1)]),
    "column": _extruded(_regular(8), "y"),
    "wheel": _extruded(_regular(12), "x"),
    "disc": _extruded(_regular(12), "z"),
    "triangle": _extruded([(-1, -0.87), (1, -0.87), (0, 0.87)], "z"),
    "diamond": _extruded([(-1, 0), (0, -1), (1, 0), (0, 1)], "z"),
    "octagon": _extruded(_regular(8), "z"),
    "gable": _extruded([(-1, -1), (1, -1), (0, 1)], "z"),
    "hull": _side_view([(-1, -0.7), (-1, 0.6), (-0.93, 1), (0.5, 1), (0.94, 0.45), (1, 0.2), (1, -0.8), (-0.97, -1)]),
    "cabin": _side_view([(-1, -1), (-0.72, 1), (0.48, 1), (1, -1)], slant=0.09),
    "wagon": _side_view([(-1, -1), (-0.93, 1), (0.55, 1), (1, -1)], slant=0.09),
    "cab": _side_view([(-1, -1), (-1, 1), (0.62, 1), (1, -0.1), (1, -1)]),
}
NAMES = tuple(SHAPES)
ELLIPSOID = NAMES.index("ellipsoid")
