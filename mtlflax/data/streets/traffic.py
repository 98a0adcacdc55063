"""Traffic: vehicles in the lanes and parked, people, riders."""

import math

from mtlflax.data.streets import people, vehicles
from mtlflax.data.streets.label_ids import BICYCLE, BUS, CAR, MOTORCYCLE, PERSON, RIDER, TRAIN, TRUCK
from mtlflax.data.streets.stage import Stage
from mtlflax.data.streets.street import CURB_HEIGHT, Street

_BUILDERS = {
    CAR: vehicles.car,
    TRUCK: vehicles.truck,
    BUS: vehicles.bus,
    TRAIN: vehicles.train,
    MOTORCYCLE: vehicles.motorcycle,
    BICYCLE: vehicles.bicycle,
}
_SADDLES = {MOTORCYCLE: 0.88, BICYCLE: 0.98}  # heights, meters
# Label, share of the traffic, room along the lane (meters).
_VEHICLES = ((CAR, 0.64, 5.0), (TRUCK, 0.10, 10.0), (BUS, 0.09, 13.5), (MOTORCYCLE, 0.09, 2.5), (BICYCLE, 0.08, 2.2))


def _add(stage: Stage, label: int, x: float, z: float, yaw: float, *, base: float = 0, ridden: bool = True) -> None:
    """Add a vehicle; `ridden` motorcycles and bicycles have a rider."""
    _BUILDERS[label](stage, stage.new_instance(x, base, z, yaw, label))
    if ridden and label in _SADDLES:
        rider = stage.new_instance(x, base, z, yaw, RIDER)
        people.person(stage, rider, seated=True, lift=_SADDLES[label])


def drive(stage: Stage, street: Street) -> None:
    """Fill the lanes and the parking strips with vehicles."""
    rng = stage.rng
    for middle, direction in street.lanes:
        along = rng.uniform(5, 22) if direction < 0 else rng.uniform(9, 40)
        busy = rng.uniform(6, 45)
        if street.rails and middle == street.lanes[0][0] and rng.chance(0.75):
            along = rng.uniform(12, 36) + 16  # the center of a tram, which is up to 34 m long
            x, yaw = street.place(middle, along)
            _add(stage, TRAIN, x, along, yaw + (math.pi if direction < 0 else 0))
            along += 18
        while along < 90:
            label, room = _draw_vehicle(stage)
            along += room / 2
            if not (street.crossed(along - room / 2, along + room / 2) and rng.chance(0.7)):
                x, yaw = street.place(middle + rng.uniform(-0.25, 0.25), along)
                _add(stage, label, x, along, yaw + (math.pi if direction < 0 else 0))
            along += room / 2 + rng.uniform(2.5, busy)
    for sign in (-1, 1):
        _park(stage, street, sign)
    if street.crossing[0] < 70 and rng.chance(0.5):
        label, _ = _draw_vehicle(stage)
        across = rng.choice((-1, 1)) * rng.uniform(5, 14)
        along = street.crossing[0] + rng.uniform(2.5, 5)
        x, yaw = street.place(across, along)
        _add(stage, label, x, along, yaw + math.pi / 2 * rng.choice((-1, 1)))
    if rng.chance(0.6):  # a rider at the edge of the road
        label = rng.choice((BICYCLE, BICYCLE, MOTORCYCLE))
        sign = rng.choice((-1, 1, 1))
        along = rng.uniform(7, 26)
        x, yaw = street.place(sign * (street.side(sign).road - 0.45), along)
        _add(stage, label, x, along, yaw + (0 if sign > 0 else math.pi))


def _draw_vehicle(stage: Stage) -> tuple[int, float]:
    drawn = stage.rng.random()
    for label, share, room in _VEHICLES:
        if drawn < share:
            return label, room
        drawn -= share
    return CAR, 5.0


def _park(stage: Stage, street: Street, sign: int) -> None:
    """Park cars, and a few trucks and motorcycles, between the lanes and the curb."""
    rng = stage.rng
    side = street.side(sign)
    if side.curb - side.road < 1.5:
        return
    full = rng.uniform(0.35, 0.95)
    along = rng.uniform(3, 9)
    while along < 65:
        drawn = rng.random()
        label, room = (CAR, 5.4) if drawn < 0.9 else (TRUCK, 10.5) if drawn < 0.95 else (MOTORCYCLE, 2.4)
        along += room / 2
        if rng.chance(full) and not street.crossed(along - room, along + room):
            x, yaw = street.place(sign * (side.road + side.curb) / 2, along)
            yaw += math.pi if sign < 0 and rng.chance(0.85) else 0
            _add(stage, label, x, along, yaw, ridden=False)
        along += room / 2 + rng.uniform(0.2, 1.2)


def walk(stage: Stage, street: Street) -> None:
    """Put people on the sidewalks and the crosswalk, and park bicycles and motorcycles on the sidewalks."""
    rng = stage.rng
    for sign in (-1, 1):
        side = street.side(sign)
        for _ in range(rng.integer(1, 5)):
            along = rng.uniform(6, 16) if rng.chance(0.3) else rng.uniform(8, 45)
            out = rng.uniform(side.walk[0] + 0.3, side.walk[1] - 0.3)
            x, yaw = street.place(sign * out, along)
            for _ in range(1 + rng.chance(0.35)):
                turn = yaw + rng.choice((0, math.pi)) + rng.uniform(-0.4, 0.4)
                people.person(stage, stage.new_instance(x, CURB_HEIGHT, along, turn, PERSON))
                x, along = x + rng.uniform(0.5, 0.8), along + rng.uniform(-0.5, 0.5)
        if rng.chance(0.45):
            along = rng.uniform(7, 30)
            label = rng.choice((BICYCLE, BICYCLE, MOTORCYCLE))
            for _ in range(rng.integer(1, 4)):
                x, yaw = street.place(sign * (side.walk[1] - 0.8), along)
                angle = yaw + rng.choice((0.0, math.pi / 2)) + rng.uniform(-0.3, 0.3)
                _add(stage, label, x, along, angle, base=CURB_HEIGHT, ridden=False)
                along += rng.uniform(0.8, 1.4)
    if street.crosswalk[0] < 1e3 and rng.chance(0.6):
        for _ in range(rng.integer(1, 3)):
            left, right = street.side(-1).road, street.side(1).road
            along = (street.crosswalk[0] + street.crosswalk[1]) / 2 + rng.uniform(-1, 1)
            x, yaw = street.place(rng.uniform(-left, right), along)
            turn = yaw + math.pi / 2 * rng.choice((-1, 1))
            people.person(stage, stage.new_instance(x, 0, along, turn, PERSON))
