"""The two Cityscapes cameras, standing somewhere on a street.

World axes: x right, y up, z along the street, metres. Camera axes: x right, y down, z forward, as
usual. A picture of any size keeps the full horizontal field of view; heights other than half the
width show more or less above and below.
"""

import math
from typing import NamedTuple

import numpy as np

from mtlflax.data.streets.dice import Dice

FULL_WIDTH, FULL_HEIGHT = 2048, 1024


class Rig(NamedTuple):
    """What is fixed to a car: metres and pixels at full width."""

    baseline: float
    fx: float
    fy: float
    u0: float
    v0: float
    pitch: float
    x: float
    y: float
    yaw: float
    z: float


# From the camera files of Aachen and of Hamburg.
RIGS = (
    Rig(0.209313, 2262.52, 2265.3017905988554, 1096.98, 513.137, 0.038, 1.7, 0.1, -0.0195, 1.22),
    Rig(0.222126, 2268.36, 2225.5405988775956, 1048.64, 519.277, 0.05, 1.7, 0.1, 0.007, 1.18),
)


class Camera(NamedTuple):
    """A rig at a place.

    Attributes:
        rig: its constants.
        position: float64 [3], world.
        pitch: radians, downwards.
        roll: radians, clockwise.
        yaw: radians, to the right of the street's direction.
    """

    rig: Rig
    position: np.ndarray
    pitch: float
    roll: float
    yaw: float

    @property
    def focal_baseline(self) -> float:
        """Focal length × baseline, in pixels × metres at full width."""
        return self.rig.fx * self.rig.baseline

    @property
    def rotation(self) -> np.ndarray:
        """float64 [3, 3]: turns world directions into camera directions."""
        sin, cos = math.sin, math.cos
        p, r, w = self.pitch, self.roll, self.yaw
        yaw = np.array([[cos(w), 0, -sin(w)], [0, 1, 0], [sin(w), 0, cos(w)]])
        pitch = np.array([[1, 0, 0], [0, cos(p), sin(p)], [0, -sin(p), cos(p)]])
        roll = np.array([[cos(r), -sin(r), 0], [sin(r), cos(r), 0], [0, 0, 1]])
        return np.diag([1.0, -1.0, 1.0]) @ roll @ pitch @ yaw

    def json(self) -> dict[str, dict[str, float]]:
        """Returns the content of a Cityscapes camera file; its frame has x forward and z up."""
        rig = self.rig
        extrinsic = {
            "baseline": rig.baseline,
            "pitch": self.pitch,
            "roll": self.roll,
            "x": rig.x,
            "y": rig.y,
            "yaw": rig.yaw,
            "z": float(self.position[1]),
        }
        return {
            "extrinsic": extrinsic,
            "intrinsic": {"fx": rig.fx, "fy": rig.fy, "u0": rig.u0, "v0": rig.v0},
        }


def draw(dice: Dice) -> Camera:
    """Draws a rig, where it stands in its lane and how it leans."""
    rig = dice.choice(RIGS)
    position = np.array([dice.uniform(-0.35, 0.35), rig.z + dice.uniform(-0.03, 0.03), 0.0])
    pitch = rig.pitch + dice.uniform(-0.012, 0.012)
    return Camera(rig, position, pitch, dice.uniform(-0.008, 0.008), dice.uniform(-0.035, 0.035))


def full_columns(columns: np.ndarray, width: int) -> np.ndarray:
    """Converts pixel columns of a picture `width` wide to those of the full picture."""
    return (columns + 0.5) * (FULL_WIDTH / width) - 0.5


def full_rows(rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """Converts pixel rows of a picture to those of the full picture, whose middle is the same."""
    return (rows + 0.5 - height / 2) * (FULL_WIDTH / width) + FULL_HEIGHT / 2 - 0.5
