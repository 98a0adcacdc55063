"""Who is on a street: vehicles in their lanes and parked, people, riders."""

import math

from mtlflax.data.streets import people, vehicles
from mtlflax.data.streets.stage import Stage
from mtlflax.data.streets.street import KERB_HEIGHT, Street

PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 24, 25, 26, 27, 28, 31, 32, 33
# Label, share of the traffic, room that it takes along the lane (metres).
_VEHICLES = (
    (CAR, 0.64, 5.0),
    (TRUCK, 0.10, 10.0),
    (BUS, 0.09, 13.5),
    (MOTORCYCLE, 0.09, 2.5),
    (BICYCLE, 0.08, 2.2),
)


def _vehicle(stage: Stage, label: int, x: float, z: float, yaw: float, base: float = 0) -> None:
    """Adds what a label stands for, with its rider where it has one."""
    frame = stage.frame(x, base, z, yaw, label)
    if label in (MOTORCYCLE, BICYCLE):
        people.cyclist(stage, frame, stage.frame(x, base, z, yaw, RIDER))
    else:
        {CAR: vehicles.car, TRUCK: vehicles.truck, BUS: vehicles.bus, TRAIN: vehicles.train}[label](stage, frame)


def drive(stage: Stage, street: Street) -> None:
    """Fills the lanes and the parking strips."""
    dice = stage.dice
    for middle, direction in street.lanes:
        along = dice.uniform(5, 22) if direction < 0 else dice.uniform(9, 40)
        busy = dice.uniform(6, 45)
        if street.rails and middle == street.lanes[0][0] and dice.chance(0.75):
            along = dice.uniform(12, 36) + 16  # a tram is 32 m long at most
            x, yaw = street.place(middle, along)
            _vehicle(stage, TRAIN, x, along, yaw + (math.pi if direction < 0 else 0))
            along += 18
        while along < 90:
            label, room = _draw_vehicle(stage)
            along += room / 2
            if not (street.crossed(along - room / 2, along + room / 2) and dice.chance(0.7)):
                x, yaw = street.place(middle + dice.uniform(-0.25, 0.25), along)
                _vehicle(stage, label, x, along, yaw + (math.pi if direction < 0 else 0))
            along += room / 2 + dice.uniform(2.5, busy)
    for sign in (-1, 1):
        _park(stage, street, sign)
    if street.crossing[0] < 70 and dice.chance(0.5):
        label, _ = _draw_vehicle(stage)
        across = dice.choice((-1, 1)) * dice.uniform(5, 14)
        along = street.crossing[0] + dice.uniform(2.5, 5)
        x, yaw = street.place(across, along)
        _vehicle(stage, label, x, along, yaw + math.pi / 2 * dice.choice((-1, 1)))
    if dice.chance(0.6):  # a rider at the edge of the road
        label = dice.choice((BICYCLE, BICYCLE, MOTORCYCLE))
        sign = dice.choice((-1, 1, 1))
        along = dice.uniform(7, 26)
        x, yaw = street.place(sign * (street.side(sign).road - 0.45), along)
        _vehicle(stage, label, x, along, yaw + (0 if sign > 0 else math.pi))


def _draw_vehicle(stage: Stage) -> tuple[int, float]:
    drawn = stage.dice.random()
    for label, share, room in _VEHICLES:
        if drawn < share:
            return label, room
        drawn -= share
    return CAR, 5.0


def _park(stage: Stage, street: Street, sign: int) -> None:
    """Parks cars, and now and then something else, between the lanes and the kerb."""
    dice = stage.dice
    side = street.side(sign)
    if side.kerb - side.road < 1.5:
        return
    full = dice.uniform(0.35, 0.95)
    along = dice.uniform(3, 9)
    while along < 65:
        drawn = dice.random()
        label, room = (CAR, 5.4) if drawn < 0.9 else (TRUCK, 10.5) if drawn < 0.95 else (MOTORCYCLE, 2.4)
        along += room / 2
        if dice.chance(full) and not street.crossed(along - room, along + room):
            x, yaw = street.place(sign * (side.road + side.kerb) / 2, along)
            yaw += math.pi if sign < 0 and dice.chance(0.85) else 0
            frame = stage.frame(x, 0, along, yaw, label)
            {CAR: vehicles.car, TRUCK: vehicles.truck, MOTORCYCLE: vehicles.motorcycle}[label](stage, frame)
        along += room / 2 + dice.uniform(0.2, 1.2)


def walk(stage: Stage, street: Street) -> None:
    """Puts people on the sidewalks and the zebra, and leaves bicycles and motorcycles standing."""
    dice = stage.dice
    for sign in (-1, 1):
        side = street.side(sign)
        for _ in range(dice.integer(1, 5)):
            along = dice.uniform(6, 16) if dice.chance(0.3) else dice.uniform(8, 45)
            out = dice.uniform(side.walk[0] + 0.3, side.walk[1] - 0.3)
            x, yaw = street.place(sign * out, along)
            for _ in range(1 + dice.chance(0.35)):
                turn = yaw + dice.choice((0, math.pi)) + dice.uniform(-0.4, 0.4)
                people.person(stage, stage.frame(x, KERB_HEIGHT, along, turn, PERSON))
                x, along = x + dice.uniform(0.5, 0.8), along + dice.uniform(-0.5, 0.5)
        if dice.chance(0.45):
            along = dice.uniform(7, 30)
            label = dice.choice((BICYCLE, BICYCLE, MOTORCYCLE))
            for _ in range(dice.integer(1, 4)):
                x, yaw = street.place(sign * (side.walk[1] - 0.8), along)
                angle = yaw + dice.choice((0.0, math.pi / 2)) + dice.uniform(-0.3, 0.3)
                frame = stage.frame(x, KERB_HEIGHT, along, angle, label)
                vehicles.bicycle(stage, frame) if label == BICYCLE else vehicles.motorcycle(stage, frame)
                along += dice.uniform(0.8, 1.4)
    if street.zebra[0] < 1e3 and dice.chance(0.6):
        for _ in range(dice.integer(1, 3)):
            left, right = street.side(-1).road, street.side(1).road
            along = (street.zebra[0] + street.zebra[1]) / 2 + dice.uniform(-1, 1)
            x, yaw = street.place(dice.uniform(-left, right), along)
            turn = yaw + math.pi / 2 * dice.choice((-1, 1))
            people.person(stage, stage.frame(x, 0, along, turn, PERSON))
