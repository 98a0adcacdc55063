"""The two Cityscapes cameras, standing somewhere on a street.

World axes, in meters: x right, y up, z along the street. Camera axes: x right, y down, z forward. An image of any size
keeps the full horizontal field of view; one that is taller or flatter than 1:2 shows more or less above and below.
"""

import math
from typing import NamedTuple

import numpy as np

from mtlflax.data.streets.random_stream import RandomStream

FULL_WIDTH, FULL_HEIGHT = 2048, 1024


class Rig(NamedTuple):
    """The constants of a stereo camera mounted on a car: meters, radians, and pixels at full width."""

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


# From the camera files of Aachen and Hamburg.
RIGS = (
    Rig(0.209313, 2262.52, 2265.3017905988554, 1096.98, 513.137, 0.038, 1.7, 0.1, -0.0195, 1.22),
    Rig(0.222126, 2268.36, 2225.5405988775956, 1048.64, 519.277, 0.05, 1.7, 0.1, 0.007, 1.18),
)


class Camera(NamedTuple):
    """A rig at a position.

    Attributes:
        rig: the constants.
        position: float64 [3], world.
        pitch: radians, downward.
        roll: radians, clockwise.
        yaw: radians, right of the street's direction.
    """

    rig: Rig
    position: np.ndarray
    pitch: float
    roll: float
    yaw: float

    @property
    def focal_baseline(self) -> float:
        """Focal length × baseline, in pixels × meters at full width."""
        return self.rig.fx * self.rig.baseline

    @property
    def rotation(self) -> np.ndarray:
        """Rotation from world to camera directions: float64 [3, 3]."""
        sin, cos = math.sin, math.cos
        p, r, w = self.pitch, self.roll, self.yaw
        yaw = np.array([[cos(w), 0, -sin(w)], [0, 1, 0], [sin(w), 0, cos(w)]])
        pitch = np.array([[1, 0, 0], [0, cos(p), sin(p)], [0, -sin(p), cos(p)]])
        roll = np.array([[cos(r), -sin(r), 0], [sin(r), cos(r), 0], [0, 0, 1]])
        return np.diag([1.0, -1.0, 1.0]) @ roll @ pitch @ yaw

    def json(self) -> dict[str, dict[str, float]]:
        """Return the content of a Cityscapes camera file (whose axes are x forward, z up)."""
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
        return {"extrinsic": extrinsic, "intrinsic": {"fx": rig.fx, "fy": rig.fy, "u0": rig.u0, "v0": rig.v0}}


def draw(rng: RandomStream) -> Camera:
    """Draw a rig, its position in the lane, and its orientation."""
    rig = rng.choice(RIGS)
    position = np.array([rng.uniform(-0.35, 0.35), rig.z + rng.uniform(-0.03, 0.03), 0.0])
    pitch = rig.pitch + rng.uniform(-0.012, 0.012)
    return Camera(rig, position, pitch, rng.uniform(-0.008, 0.008), rng.uniform(-0.035, 0.035))


def full_columns(columns: np.ndarray, width: int) -> np.ndarray:
    """Convert pixel columns of an image `width` wide to columns of the full image."""
    return (columns + 0.5) * (FULL_WIDTH / width) - 0.5


def full_rows(rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """Convert pixel rows of an image to rows of the full image; the center row is the same."""
    return (rows + 0.5 - height / 2) * (FULL_WIDTH / width) + FULL_HEIGHT / 2 - 0.5
