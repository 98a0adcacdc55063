"""What lines a street: houses, walls, fences, hedges, trees, poles, signs, signals."""

from mtlflax.data.streets import furniture
from mtlflax.data.streets.dice import Dice
from mtlflax.data.streets.palette import BRICKS, LEAVES, METALS, PLASTERS, ROOFS, shade
from mtlflax.data.streets.stage import Frame, Stage
from mtlflax.data.streets.street import KERB_HEIGHT, Street
from mtlflax.data.streets.surface import Material

STATIC, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION = 4, 11, 12, 13, 17, 19, 20, 21
FAR = 150.0

_LOTS = {
    "city": ("house",) * 12 + ("wall", "fence", "trees"),
    "suburb": ("villa",) * 5 + ("hedge", "wall", "wall", "fence", "fence", "trees"),
    "park": ("trees",) * 5 + ("hedge", "fence", "fence", "wall", "house"),
    "works": ("house",) * 3 + ("wall", "wall", "fence", "fence", "trees"),
}


def _at(street: Street, lateral: float, along: float, label: int, base: float = KERB_HEIGHT) -> Frame:
    x, yaw = street.place(lateral, along)
    return Frame(x, base, along, yaw, label)


def _house(stage: Stage, frame: Frame, size: tuple[float, float, float], low: bool) -> None:
    """Adds a building; its long side lies along the street."""
    dice = stage.dice
    wall, trim = dice.choice(PLASTERS), shade(dice.choice(PLASTERS), dice.uniform(0.6, 1.25))
    wall = shade(wall, dice.uniform(0.75, 1.1))
    storey = dice.uniform(2.9, 3.8)
    params = (storey, dice.uniform(1.7, 3.4), dice.uniform(0.35, 0.72), float(dice.random()))
    stage.put(frame, "box", (0, 0, 0), size, wall, Material.FACADE, trim, params)
    width, height, length = size
    if low or dice.chance(0.45):
        rise = dice.uniform(1.8, 3.5)
        roof = (width + 0.5, rise, length + 0.4)
        stage.put(frame, "gable", (0, height, 0), roof, dice.choice(ROOFS), Material.ROOF)
    else:
        roof = (width + 0.3, 0.35, length + 0.3)
        stage.put(frame, "box", (0, height - 0.1, 0), roof, shade(trim, 0.8))


def _barrier(stage: Stage, frame: Frame, length: float) -> None:
    """Adds a wall or a fence along the street."""
    dice = stage.dice
    if frame.label == WALL:
        height = dice.uniform(1.1, 3.2)
        style = (dice.choice((0.08, 0.2, 0.35)), dice.random(), 0.0, 0.0)
        color = shade(dice.choice(BRICKS), dice.uniform(0.8, 1.15))
        stage.put(frame, "box", (0, 0, 0), (0.3, height, length), color, Material.BRICKS, params=style)
        top = (0.4, 0.1, length)
        stage.put(frame, "box", (0, height, 0), top, shade(color, 0.9))
        return
    height = dice.uniform(0.95, 2.1)
    color = dice.choice(METALS + PLASTERS[:2])
    kind = float(dice.integer(0, 2))  # bars, boards, mesh
    period = (0.14, 0.17, 0.3)[int(kind)]
    size = (0.06, height, length)
    params = (period, kind, height, 0.0)
    stage.put(frame, "box", (0, 0, 0), size, color, Material.FENCE, params=params)
    if dice.chance(0.3):
        low = (0.25, dice.uniform(0.2, 0.5), length)
        stage.put(frame, "box", (0, 0, 0), low, dice.choice(BRICKS), Material.BRICKS, params=(0.2, 0, 0, 0), label=WALL)


def _hedge(stage: Stage, frame: Frame, length: float, height: float) -> None:
    leaf = stage.dice.choice(LEAVES)
    places = (stage.dice.uniform(0, 500), 0.0, 0.0, 0.0)
    size = (0.9, height, length)
    stage.put(frame, "box", (0, 0, 0), size, leaf, Material.HEDGE, params=places)


def line(stage: Stage, street: Street, sign: int) -> None:
    """Fills the lots along one side, one after the other."""
    dice = stage.dice
    side = street.side(sign)
    along = dice.uniform(-12, -4)
    while along < FAR:
        kind = dice.choice(_LOTS[street.district])
        length = dice.uniform(9, 24)
        middle, end = along + length / 2, along + length
        if street.crossed(along, end):
            if along < street.crossing[0] - 6:  # the corner lot ends at the crossing's sidewalk
                end = street.crossing[0] - 2.5
                length, middle = end - along, (along + end) / 2
            else:
                along = street.crossing[1] + 2.5
                continue
        if kind in ("house", "villa"):
            tall = dice.uniform(9, 21) if street.district == "city" else dice.uniform(5, 11)
            depth = dice.uniform(9, 14)
            back = 0.0 if kind == "house" else dice.uniform(3, 6)
            low = kind == "villa"
            height = dice.uniform(4.5, 7.5) if low else tall
            free = dice.uniform(0, 0.05) if not low else dice.uniform(1.5, 4)
            frame = _at(street, sign * (side.front + back + depth / 2), middle, BUILDING)
            _house(stage, frame, (depth, height, length - free), low)
            if low:
                _border(stage, street, sign, middle, length)
                if dice.chance(0.6):
                    _tree(stage, street, sign * (side.front + 1.8), middle + dice.uniform(-4, 4))
        elif kind == "trees":
            for _ in range(dice.integer(2, 4)):
                out = side.front + dice.uniform(1.5, 9)
                _tree(stage, street, sign * out, along + dice.uniform(0, length))
            for _ in range(dice.integer(1, 3)):
                out = side.front + dice.uniform(0.6, 5)
                frame = _at(street, sign * out, along + dice.uniform(0, length), VEGETATION)
                furniture.bush(stage, frame, dice.uniform(1, 2.6), dice.uniform(0.7, 2.0))
            if dice.chance(0.5):
                _border(stage, street, sign, middle, length)
        elif kind == "hedge":
            frame = _at(street, sign * (side.front + 0.6), middle, VEGETATION)
            _hedge(stage, frame, length, dice.uniform(1.0, 2.4))
            _tree(stage, street, sign * (side.front + 4), middle)
        else:
            frame = _at(street, sign * (side.front + 0.3), middle, WALL if kind == "wall" else FENCE)
            _barrier(stage, frame, length - 0.1)
            if dice.chance(0.7):
                frame = _at(street, sign * (side.front + dice.uniform(12, 18)), middle, BUILDING)
                size = (dice.uniform(8, 12), dice.uniform(4, 10), length * 0.8)
                _house(stage, frame, size, dice.chance(0.4))
            for _ in range(dice.integer(0, 2)):
                out = side.front + dice.uniform(2, 7)
                _tree(stage, street, sign * out, along + dice.uniform(0, length))
        along = end


def _border(stage: Stage, street: Street, sign: int, middle: float, length: float) -> None:
    kind = stage.dice.choice((WALL, FENCE, FENCE, VEGETATION))
    frame = _at(street, sign * (street.side(sign).front + 0.3), middle, kind)
    if kind == VEGETATION:
        _hedge(stage, frame, length - 2, stage.dice.uniform(0.7, 1.5))
    else:
        _barrier(stage, frame, length - 0.1)


def _tree(stage: Stage, street: Street, lateral: float, along: float) -> None:
    if along > 4:
        furniture.tree(stage, _at(street, lateral, along, VEGETATION), height=stage.dice.uniform(4.5, 11))


def _along(dice: Dice, street: Street, first: float, step: float, last: float) -> list[float]:
    """Returns places along a kerb, some `step` metres apart, none on the crossing or the zebra."""
    places, along = [], first
    while along < last:
        if not street.crossed(along - 2, along + 2) and not (street.zebra[0] - 2 < along < street.zebra[1] + 2):
            places.append(along)
        along += step * dice.uniform(0.7, 1.3)
    return places


def furnish(stage: Stage, street: Street, sign: int) -> None:
    """Sets trees, lamps, signs, signals and bins along one kerb."""
    dice = stage.dice
    side = street.side(sign)
    near = side.kerb + 0.45
    if dice.chance(0.5):
        row = max(near, (side.verge[0] + side.verge[1]) / 2) + 0.3
        height = dice.uniform(4.5, 9)
        for along in _along(dice, street, dice.uniform(7, 16), dice.uniform(7, 14), 80):
            frame = _at(street, sign * row, along, VEGETATION)
            furniture.tree(stage, frame, height=height * dice.uniform(0.85, 1.15))
    arm = -sign * dice.uniform(1.2, 2.4) if dice.chance(0.6) else 0
    tall, thick = dice.uniform(5, 8.5), dice.uniform(0.13, 0.24)
    for along in _along(dice, street, dice.uniform(6, 22), dice.uniform(14, 26), 85):
        furniture.pole(stage, _at(street, sign * near, along, POLE), tall, thick, arm)
    if dice.chance(0.4):  # bollards
        for along in _along(dice, street, dice.uniform(5, 25), 2.2, dice.uniform(20, 40)):
            furniture.pole(stage, _at(street, sign * (side.kerb + 0.25), along, POLE), 0.95, 0.11)
    for along in _along(dice, street, dice.uniform(6, 20), 17, 70):
        if dice.chance(0.75):
            frame = _at(street, sign * (near + dice.uniform(0, 0.5)), along, SIGN)
            furniture.sign(stage, frame, dice.uniform(2.2, 3.2))
    if sign > 0 and dice.chance(0.3):
        frame = _at(street, near + 1.4, dice.uniform(16, 45), SIGN)
        furniture.board(stage, frame, dice.uniform(1.6, 2.8), dice.uniform(2.8, 3.8))
    stop = min(street.crossing[0], street.zebra[0]) - 0.7
    if stop < 1e3 and dice.chance(0.85):
        arm = -sign * dice.uniform(2.5, 5) if dice.chance(0.4) else 0
        height = dice.uniform(5.2, 6) if arm else dice.uniform(3.2, 3.7)
        furniture.traffic_light(stage, _at(street, sign * near, stop, LIGHT), height, arm)
        if street.crossing[1] < 1e3:
            far = street.crossing[1] + 1
            furniture.traffic_light(stage, _at(street, sign * near, far, LIGHT), 3.4)
    if dice.chance(0.35):
        along = dice.uniform(8, 40)
        furniture.bin(stage, _at(street, sign * (side.walk[1] - 0.4), along, STATIC))


def close(stage: Stage, street: Street) -> None:
    """Closes the view at the far end with houses or trees across the street."""
    dice = stage.dice
    x, yaw = street.place(0, FAR + 15)
    green = dice.chance(0.5)
    across = -75.0
    while across < 75:
        width = dice.uniform(10, 24)
        if green:
            frame = Frame(x + across, 0, FAR + dice.uniform(5, 25), yaw, VEGETATION)
            furniture.bush(stage, frame, width * 1.1, dice.uniform(7, 13))
        else:
            frame = Frame(x + across + width / 2, 0, FAR + 20, yaw, BUILDING)
            _house(stage, frame, (width, dice.uniform(8, 18), 10), dice.chance(0.3))
        across += width * (0.7 if green else 1.0)
