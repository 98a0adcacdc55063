"""The stage, which collects the solids of a scene's objects. All lengths are in meters.

Every object has a pose, which defines its own axes: the origin at its center on the ground, x to its right, y up,
z in the direction it faces.
"""

import math
from typing import NamedTuple

from mtlflax.data.streets.palette import Color
from mtlflax.data.streets.random_stream import RandomStream
from mtlflax.data.streets.shapes import NAMES
from mtlflax.data.streets.surface import Material

DARK = (0.05, 0.05, 0.055)
COARSE = 32.0  # meters along the street beyond which objects have fewer parts


class Pose(NamedTuple):
    """Where an object stands and how it is labeled.

    Attributes:
        x: meters, world.
        y: meters, world.
        z: meters, world.
        yaw: radians, to the right of the world's z axis.
        label: Cityscapes label id of its parts.
        instance: its number among the objects of its label; 0 for stuff.
    """

    x: float
    y: float
    z: float
    yaw: float
    label: int
    instance: int = 0


class Part(NamedTuple):
    """A solid in the world; a scene is a table of these."""

    shape: int
    x: float
    y: float
    z: float
    half_x: float
    half_y: float
    half_z: float
    yaw: float
    tilt: float
    material: int
    red: float
    green: float
    blue: float
    accent_red: float
    accent_green: float
    accent_blue: float
    p0: float
    p1: float
    p2: float
    p3: float
    label: int
    instance: int


class Stage:
    """Collect the parts of a scene."""

    def __init__(self, rng: RandomStream):
        self.rng = rng
        self.parts: list[Part] = []
        self._instances: dict[int, int] = {}

    def new_instance(self, x: float, y: float, z: float, yaw: float, label: int) -> Pose:
        """Return the pose of a new object with the next instance number of its label."""
        number = self._instances.get(label, 0)
        self._instances[label] = number + 1
        return Pose(x, y, z, yaw, label, number)

    def put(
        self,
        pose: Pose,
        shape: str,
        at: tuple[float, float, float],
        size: tuple[float, float, float],
        color: Color,
        material: Material = Material.PLAIN,
        accent: Color = DARK,
        params: tuple[float, float, float, float] = (0, 0, 0, 0),
        tilt: float = 0,
        label: int | None = None,
    ) -> None:
        """Add a solid: `at` is the center of its bottom in the axes of the pose, `size` its full extent."""
        sin, cos = math.sin(pose.yaw), math.cos(pose.yaw)
        x, y, z = at
        self.parts.append(
            Part(
                NAMES.index(shape),
                pose.x + cos * x + sin * z,
                pose.y + y + size[1] / 2,
                pose.z - sin * x + cos * z,
                size[0] / 2,
                size[1] / 2,
                size[2] / 2,
                pose.yaw,
                tilt,
                material,
                *color,
                *accent,
                *params,
                pose.label if label is None else label,
                pose.instance,
            )
        )
