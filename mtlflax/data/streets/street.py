"""The ground: a street's lanes and borders side by side, following a gentle curve."""

import itertools
import math
from typing import NamedTuple

import numpy as np

from mtlflax.data.streets.dice import Dice
from mtlflax.data.streets.palette import ASPHALTS, GRASSES, PAVINGS, Color, shade

ROAD, SIDEWALK, PARKING, TERRAIN = 7, 8, 9, 22
KERB_HEIGHT = 0.12


class Marking(NamedTuple):
    """A painted line along the street: metres; a solid one has on = 1."""

    at: float
    width: float
    period: float
    on: float


class Side(NamedTuple):
    """What one side offers, as distances from the camera's lane (positive on both sides).

    Attributes:
        road: where the lanes end.
        kerb: where the raised part begins; between the two, cars are parked.
        walk: inner and outer edge of the sidewalk.
        verge: inner and outer edge of the grass along the kerb; the same where there is none.
        front: where houses, walls or fences begin.
    """

    road: float
    kerb: float
    walk: tuple[float, float]
    verge: tuple[float, float]
    front: float


class Street(NamedTuple):
    """A cross-section that is swept along x = curve · z² / 2.

    Attributes:
        sides: left, right.
        lanes: (middle, direction) of each lane, from left to right; direction 1 = as the camera.
        rails: whether a tramway lies in the lane left of the camera's.
        edges: float64 [n], ascending: where one ground ends and the next begins.
        labels: uint8 [n + 1], label ids.
        colors: float32 [n + 1, 3].
        markings: the painted lines.
        curve: 1/m.
        crossing: from where to where along z a street crosses; far away where none does.
        zebra: from where to where a pedestrian crossing is painted; likewise.
        district: "city", "suburb", "park" or "works".
    """

    sides: tuple[Side, Side]
    lanes: list[tuple[float, int]]
    rails: bool
    edges: np.ndarray
    labels: np.ndarray
    colors: np.ndarray
    markings: list[Marking]
    curve: float
    crossing: tuple[float, float]
    zebra: tuple[float, float]
    district: str

    def side(self, sign: int) -> Side:
        """Returns the left (−1) or right (1) side."""
        return self.sides[sign > 0]

    def place(self, lateral: float, along: float) -> tuple[float, float]:
        """Returns the world x of a point of the street, and the street's yaw there."""
        return lateral + self.curve * along * along / 2, math.atan(self.curve * along)

    def crossed(self, low: float, high: float) -> bool:
        """Tells whether the crossing touches this stretch of z."""
        return low < self.crossing[1] and high > self.crossing[0]


def _side(dice: Dice, district: str, road: float) -> Side:
    kerb = road + (dice.uniform(2.0, 2.4) if dice.chance(0.5) else dice.uniform(0.2, 0.5))
    grass = dice.uniform(0.9, 2.6) if dice.chance(0.55 if district != "city" else 0.25) else 0.0
    walk = kerb + grass
    width = dice.uniform(2.2, 5.5) if district == "city" else dice.uniform(1.8, 4.0)
    gap = {"city": (0.0, 0.3), "suburb": (0.0, 1.0), "park": (0.5, 3.0), "works": (0.3, 2.0)}
    front = walk + width + dice.uniform(*gap[district])
    return Side(road, kerb, (walk, walk + width), (kerb, walk), front)


def draw_street(dice: Dice) -> Street:
    """Draws a street."""
    district = dice.choice(("city", "city", "city", "suburb", "suburb", "park", "works"))
    lane = dice.uniform(3.0, 3.6)
    rails = dice.chance(0.34)
    towards, along = dice.choice(((1, 1), (1, 1), (1, 2), (2, 2), (0, 1)))
    towards = max(towards, int(rails))
    lanes = [(-lane * (i + 1), -1) for i in reversed(range(towards))]
    lanes += [(lane * i, 1) for i in range(along)]
    left_side = _side(dice, district, lane * (towards + 0.5) + 0.2)
    right_side = _side(dice, district, lane * (along - 0.5) + 0.2)
    asphalt = shade(dice.choice(ASPHALTS), dice.uniform(0.85, 1.2))
    paving = shade(dice.choice(PAVINGS), dice.uniform(0.85, 1.15))
    grass = shade(dice.choice(GRASSES), dice.uniform(0.8, 1.2))
    parking = shade(dice.choice((asphalt, asphalt, paving)), dice.uniform(0.85, 1.1))
    parking_label = PARKING if dice.chance(0.3) else ROAD
    beyond = TERRAIN if district in ("suburb", "park") or dice.chance(0.3) else SIDEWALK
    outer: Color = grass if beyond == TERRAIN else shade(paving, 0.85)
    edges, grounds = [], []
    for sign, side in ((-1, left_side), (1, right_side)):
        stretch = [
            (side.road, ROAD, asphalt),
            (side.kerb, parking_label, parking),
            (side.walk[0], TERRAIN, grass),
            (side.walk[1], SIDEWALK, paving),
            (math.inf, beyond, outer),
        ]
        stretch = stretch[::sign]
        grounds += [(label, color) for _, label, color in stretch]
        edges += [sign * end for end, _, _ in stretch if end < math.inf]
        if sign < 0:
            edges.append(0.0)
    markings = [
        Marking((a + b) / 2, 0.12, 12.0 if one == other else 9.0, 0.5 if one == other else 0.4)
        for (a, one), (b, other) in itertools.pairwise(lanes)
    ]
    if dice.chance(0.25):
        markings = [line._replace(on=1.0) for line in markings]
    if dice.chance(0.5):
        markings += [
            Marking(right_side.road - 0.15, 0.12, 1, 1),
            Marking(-left_side.road + 0.15, 0.12, 1, 1),
        ]
    crossing, zebra = (1e4, 1e4), (1e4, 1e4)
    if dice.chance(0.5):
        start = dice.uniform(14, 60)
        crossing = (start, start + dice.uniform(9, 16))
        zebra = (start - 4.5, start - 1.2) if dice.chance(0.6) else zebra
    elif dice.chance(0.3):
        start = dice.uniform(10, 40)
        zebra = (start, start + 3.2)
    return Street(
        (left_side, right_side),
        lanes,
        rails,
        np.array(edges),
        np.array([label for label, _ in grounds], np.uint8),
        np.array([color for _, color in grounds], np.float32),
        markings,
        dice.choice((0.0, dice.uniform(-1, 1) * 0.002, dice.uniform(-1, 1) * 0.006)),
        crossing,
        zebra,
        district,
    )
