"""Draws a street: its cross-section, what lines it, who is on it, the light. Nothing here knows a picture's size."""

from typing import NamedTuple

import numpy as np

from mtlflax.data.streets import camera as cameras
from mtlflax.data.streets import roadside, traffic
from mtlflax.data.streets.camera import Camera
from mtlflax.data.streets.dice import Dice
from mtlflax.data.streets.light import Light, draw_light
from mtlflax.data.streets.stage import Part, Stage
from mtlflax.data.streets.street import Street, draw_street

SPLITS = ("train", "val", "test")


class Scene(NamedTuple):
    """Everything that is in a picture.

    Attributes:
        camera: where the picture is taken from.
        street: the ground.
        light: sun, sky and haze.
        parts: float64 [P, 22], a row for each solid, columns as in `Part`.
        texture: an offset for all noise, so that no two scenes have the same stains.
    """

    camera: Camera
    street: Street
    light: Light
    parts: np.ndarray
    texture: float


def draw(seed: int, split: str, index: int) -> Scene:
    """Draws the scene that belongs to (seed, split, index); the same one at any time."""
    dice = Dice(seed, SPLITS.index(split), index)
    camera = cameras.draw(dice)
    street = draw_street(dice)
    light = draw_light(dice)
    stage = Stage(dice)
    for side in (-1, 1):
        roadside.line(stage, street, side)
        roadside.furnish(stage, street, side)
    roadside.close(stage, street)
    traffic.drive(stage, street)
    traffic.walk(stage, street)
    return Scene(camera, street, light, np.array(stage.parts), dice.uniform(0, 500))


COLUMN = {name: i for i, name in enumerate(Part._fields)}


def column(parts: np.ndarray, *names: str) -> np.ndarray:
    """Returns the named columns of a table of parts: [P, len(names)], or [P] for one name."""
    table = parts[:, [COLUMN[name] for name in names]]
    return table[:, 0] if len(names) == 1 else table
