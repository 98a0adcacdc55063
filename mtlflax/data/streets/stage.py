"""The stage that a scene's objects are put on, solid by solid. Metres throughout.

Every object has a frame: its middle on the ground, x to its right, y up, z where it faces.
"""

import math
from typing import NamedTuple

from mtlflax.data.streets.dice import Dice
from mtlflax.data.streets.palette import Color
from mtlflax.data.streets.shapes import NAMES
from mtlflax.data.streets.surface import Material

DARK = (0.05, 0.05, 0.055)
COARSE = 32.0  # metres along the street from which on things have fewer parts


class Frame(NamedTuple):
    """Where an object stands, and what it counts as.

    Attributes:
        x: metres, world; so are `y` and `z`.
        yaw: radians, to the right of the world's z axis.
        label: Cityscapes label id of its parts.
        instance: its number among the things of its kind; 0 for stuff.
    """

    x: float
    y: float
    z: float
    yaw: float
    label: int
    instance: int = 0


class Part(NamedTuple):
    """One solid in the world; a scene is a table of these."""

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
    """Collects the parts of a scene."""

    def __init__(self, dice: Dice):
        self.dice = dice
        self.parts: list[Part] = []
        self._instances: dict[int, int] = {}

    def frame(self, x: float, y: float, z: float, yaw: float, label: int) -> Frame:
        """Returns the frame of a new thing, with the next instance number of its label."""
        number = self._instances.get(label, 0)
        self._instances[label] = number + 1
        return Frame(x, y, z, yaw, label, number)

    def put(
        self,
        frame: Frame,
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
        """Adds a solid: `at` is the middle of its bottom in the frame, `size` its full extent."""
        sin, cos = math.sin(frame.yaw), math.cos(frame.yaw)
        x, y, z = at
        self.parts.append(
            Part(
                NAMES.index(shape),
                frame.x + cos * x + sin * z,
                frame.y + y + size[1] / 2,
                frame.z - sin * x + cos * z,
                size[0] / 2,
                size[1] / 2,
                size[2] / 2,
                frame.yaw,
                tilt,
                material,
                *color,
                *accent,
                *params,
                frame.label if label is None else label,
                frame.instance,
            )
        )
