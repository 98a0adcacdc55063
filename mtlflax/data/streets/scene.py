"""A scene: the street, what lines it, who is on it, and the light. Nothing here depends on the image size."""

from typing import NamedTuple

import numpy as np

from mtlflax.data.streets import camera as cameras
from mtlflax.data.streets import roadside, traffic
from mtlflax.data.streets.camera import Camera
from mtlflax.data.streets.light import Light, draw_light
from mtlflax.data.streets.random_stream import RandomStream
from mtlflax.data.streets.stage import Part, Stage
from mtlflax.data.streets.street import Street, draw_street

SPLITS = ("train", "val", "test")


class Scene(NamedTuple):
    """Everything that an image can show.

    Attributes:
        camera: the viewpoint.
        street: the ground.
        light: sun, sky and haze.
        parts: float64 [P, 22], a row per solid, with the columns of `Part`.
        texture: an offset of all noise textures, so that scenes differ in their stains.
    """

    camera: Camera
    street: Street
    light: Light
    parts: np.ndarray
    texture: float


def draw(seed: int, split: str, index: int) -> Scene:
    """Draw the scene of (seed, split, index); the same address always gives the same scene."""
    rng = RandomStream(seed, SPLITS.index(split), index)
    camera = cameras.draw(rng)
    street = draw_street(rng)
    light = draw_light(rng)
    stage = Stage(rng)
    for side in (-1, 1):
        roadside.line(stage, street, side)
        roadside.furnish(stage, street, side)
    roadside.close(stage, street)
    traffic.drive(stage, street)
    traffic.walk(stage, street)
    return Scene(camera, street, light, np.array(stage.parts), rng.uniform(0, 500))


COLUMN = {name: i for i, name in enumerate(Part._fields)}


def column(parts: np.ndarray, *names: str) -> np.ndarray:
    """Return the named columns of a table of parts: [P, len(names)], or [P] for one name."""
    table = parts[:, [COLUMN[name] for name in names]]
    return table[:, 0] if len(names) == 1 else table
