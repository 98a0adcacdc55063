"""The ground: lanes and their borders side by side along a gentle curve."""

import itertools
import math
from typing import NamedTuple

import numpy as np

from mtlflax.data.streets.label_ids import PARKING, ROAD, SIDEWALK, TERRAIN
from mtlflax.data.streets.palette import ASPHALTS, GRASSES, PAVINGS, Color, shade
from mtlflax.data.streets.random_stream import RandomStream

CURB_HEIGHT = 0.12  # meters


class Marking(NamedTuple):
    """A painted line along the street.

    Attributes:
        at: lateral position, meters.
        width: meters.
        period: length of a dash and a gap, meters.
        on: share of the period that is painted; 1 = a solid line.
    """

    at: float
    width: float
    period: float
    on: float


class Side(NamedTuple):
    """One side of the street, as distances from the center of the camera's lane (positive on both sides).

    Attributes:
        road: outer edge of the lanes.
        curb: inner edge of the raised part; cars park between `road` and `curb`.
        walk: inner and outer edge of the sidewalk.
        verge: inner and outer edge of the grass along the curb; equal where there is none.
        front: inner edge of the lots with houses, walls, and fences.
    """

    road: float
    curb: float
    walk: tuple[float, float]
    verge: tuple[float, float]
    front: float


class Street(NamedTuple):
    """A cross-section swept along the curve x = curve · z² / 2.

    Attributes:
        sides: left, right.
        lanes: (center, direction) of each lane, from left to right; direction 1 = the camera's, −1 = oncoming.
        rails: whether tram tracks lie in the leftmost lane.
        edges: float64 [n], ascending lateral positions of the borders between zones of the ground.
        labels: uint8 [n + 1], label id of each zone.
        colors: float32 [n + 1, 3], color of each zone.
        markings: the painted lines.
        curve: curvature, 1/m.
        crossing: first and last z of an intersecting street; far away if there is none.
        crosswalk: first and last z of a crosswalk; far away if there is none.
        district: "city", "suburb", "park", or "works".
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
    crosswalk: tuple[float, float]
    district: str

    def side(self, sign: int) -> Side:
        """Return the left (−1) or right (1) side."""
        return self.sides[sign > 0]

    def place(self, lateral: float, along: float) -> tuple[float, float]:
        """Return the world x of a point of the street, and the yaw of the street there."""
        return lateral + self.curve * along * along / 2, math.atan(self.curve * along)

    def crossed(self, low: float, high: float) -> bool:
        """Return whether the intersecting street overlaps this interval of z."""
        return low < self.crossing[1] and high > self.crossing[0]


def _side(rng: RandomStream, district: str, road: float) -> Side:
    curb = road + (rng.uniform(2.0, 2.4) if rng.chance(0.5) else rng.uniform(0.2, 0.5))
    grass = rng.uniform(0.9, 2.6) if rng.chance(0.55 if district != "city" else 0.25) else 0.0
    walk = curb + grass
    width = rng.uniform(2.2, 5.5) if district == "city" else rng.uniform(1.8, 4.0)
    gap = {"city": (0.0, 0.3), "suburb": (0.0, 1.0), "park": (0.5, 3.0), "works": (0.3, 2.0)}
    front = walk + width + rng.uniform(*gap[district])
    return Side(road, curb, (walk, walk + width), (curb, walk), front)


def draw_street(rng: RandomStream) -> Street:
    """Draw a street."""
    district = rng.choice(("city", "city", "city", "suburb", "suburb", "park", "works"))
    lane = rng.uniform(3.0, 3.6)
    rails = rng.chance(0.34)
    oncoming, same_way = rng.choice(((1, 1), (1, 1), (1, 2), (2, 2), (0, 1)))
    oncoming = max(oncoming, int(rails))
    lanes = [(-lane * (i + 1), -1) for i in reversed(range(oncoming))]
    lanes += [(lane * i, 1) for i in range(same_way)]
    left_side = _side(rng, district, lane * (oncoming + 0.5) + 0.2)
    right_side = _side(rng, district, lane * (same_way - 0.5) + 0.2)
    asphalt = shade(rng.choice(ASPHALTS), rng.uniform(0.85, 1.2))
    paving = shade(rng.choice(PAVINGS), rng.uniform(0.85, 1.15))
    grass = shade(rng.choice(GRASSES), rng.uniform(0.8, 1.2))
    parking = shade(rng.choice((asphalt, asphalt, paving)), rng.uniform(0.85, 1.1))
    parking_label = PARKING if rng.chance(0.3) else ROAD
    beyond = TERRAIN if district in ("suburb", "park") or rng.chance(0.3) else SIDEWALK
    outer: Color = grass if beyond == TERRAIN else shade(paving, 0.85)
    edges, grounds = [], []
    for sign, side in ((-1, left_side), (1, right_side)):
        stretch = [
            (side.road, ROAD, asphalt),
            (side.curb, parking_label, parking),
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
    if rng.chance(0.25):
        markings = [line._replace(on=1.0) for line in markings]
    if rng.chance(0.5):
        markings += [Marking(right_side.road - 0.15, 0.12, 1, 1), Marking(-left_side.road + 0.15, 0.12, 1, 1)]
    crossing, crosswalk = (1e4, 1e4), (1e4, 1e4)
    if rng.chance(0.5):
        start = rng.uniform(14, 60)
        crossing = (start, start + rng.uniform(9, 16))
        crosswalk = (start - 4.5, start - 1.2) if rng.chance(0.6) else crosswalk
    elif rng.chance(0.3):
        start = rng.uniform(10, 40)
        crosswalk = (start, start + 3.2)
    return Street(
        (left_side, right_side),
        lanes,
        rails,
        np.array(edges),
        np.array([label for label, _ in grounds], np.uint8),
        np.array([color for _, color in grounds], np.float32),
        markings,
        rng.choice((0.0, rng.uniform(-1, 1) * 0.002, rng.uniform(-1, 1) * 0.006)),
        crossing,
        crosswalk,
        district,
    )
