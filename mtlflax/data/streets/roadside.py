"""What lines a street: houses, walls, fences, hedges, trees, poles, signs, traffic lights."""

from mtlflax.data.streets import furniture
from mtlflax.data.streets.label_ids import BUILDING, FENCE, POLE, STATIC, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, WALL
from mtlflax.data.streets.palette import BRICKS, LEAVES, METALS, PLASTERS, ROOFS, shade
from mtlflax.data.streets.random_stream import RandomStream
from mtlflax.data.streets.stage import Pose, Stage
from mtlflax.data.streets.street import CURB_HEIGHT, Street
from mtlflax.data.streets.surface import Material

FAR = 150.0  # meters

_LOTS = {
    "city": ("house",) * 12 + ("wall", "fence", "trees"),
    "suburb": ("villa",) * 5 + ("hedge", "wall", "wall", "fence", "fence", "trees"),
    "park": ("trees",) * 5 + ("hedge", "fence", "fence", "wall", "house"),
    "works": ("house",) * 3 + ("wall", "wall", "fence", "fence", "trees"),
}


def _at(street: Street, lateral: float, along: float, label: int) -> Pose:
    x, yaw = street.place(lateral, along)
    return Pose(x, CURB_HEIGHT, along, yaw, label)


def _house(stage: Stage, pose: Pose, size: tuple[float, float, float], low: bool) -> None:
    """Add a building; its length is along the street."""
    rng = stage.rng
    wall, trim = rng.choice(PLASTERS), shade(rng.choice(PLASTERS), rng.uniform(0.6, 1.25))
    wall = shade(wall, rng.uniform(0.75, 1.1))
    story = rng.uniform(2.9, 3.8)
    params = (story, rng.uniform(1.7, 3.4), rng.uniform(0.35, 0.72), float(rng.random()))
    stage.put(pose, "box", (0, 0, 0), size, wall, Material.FACADE, trim, params)
    width, height, length = size
    if low or rng.chance(0.45):
        rise = rng.uniform(1.8, 3.5)
        roof = (width + 0.5, rise, length + 0.4)
        stage.put(pose, "gable", (0, height, 0), roof, rng.choice(ROOFS), Material.ROOF)
    else:
        roof = (width + 0.3, 0.35, length + 0.3)
        stage.put(pose, "box", (0, height - 0.1, 0), roof, shade(trim, 0.8))


def _barrier(stage: Stage, pose: Pose, length: float) -> None:
    """Add a wall or a fence along the street."""
    rng = stage.rng
    if pose.label == WALL:
        height = rng.uniform(1.1, 3.2)
        style = (rng.choice((0.08, 0.2, 0.35)), rng.random(), 0.0, 0.0)
        color = shade(rng.choice(BRICKS), rng.uniform(0.8, 1.15))
        stage.put(pose, "box", (0, 0, 0), (0.3, height, length), color, Material.BRICKS, params=style)
        top = (0.4, 0.1, length)
        stage.put(pose, "box", (0, height, 0), top, shade(color, 0.9))
        return
    height = rng.uniform(0.95, 2.1)
    color = rng.choice(METALS + PLASTERS[:2])
    kind = float(rng.integer(0, 2))  # bars, boards, mesh
    period = (0.14, 0.17, 0.3)[int(kind)]
    size = (0.06, height, length)
    params = (period, kind, height, 0.0)
    stage.put(pose, "box", (0, 0, 0), size, color, Material.FENCE, params=params)
    if rng.chance(0.3):
        low = (0.25, rng.uniform(0.2, 0.5), length)
        stage.put(pose, "box", (0, 0, 0), low, rng.choice(BRICKS), Material.BRICKS, params=(0.2, 0, 0, 0), label=WALL)


def _hedge(stage: Stage, pose: Pose, length: float, height: float) -> None:
    leaf = stage.rng.choice(LEAVES)
    places = (stage.rng.uniform(0, 500), 0.0, 0.0, 0.0)
    size = (0.9, height, length)
    stage.put(pose, "box", (0, 0, 0), size, leaf, Material.HEDGE, params=places)


def line(stage: Stage, street: Street, sign: int) -> None:
    """Fill the lots along one side of the street, one after the other."""
    rng = stage.rng
    side = street.side(sign)
    along = rng.uniform(-12, -4)
    while along < FAR:
        kind = rng.choice(_LOTS[street.district])
        length = rng.uniform(9, 24)
        middle, end = along + length / 2, along + length
        if street.crossed(along, end):
            if along < street.crossing[0] - 6:  # the corner lot ends at the sidewalk of the intersecting street
                end = street.crossing[0] - 2.5
                length, middle = end - along, (along + end) / 2
            else:
                along = street.crossing[1] + 2.5
                continue
        if kind in ("house", "villa"):
            tall = rng.uniform(9, 21) if street.district == "city" else rng.uniform(5, 11)
            depth = rng.uniform(9, 14)
            back = 0.0 if kind == "house" else rng.uniform(3, 6)
            low = kind == "villa"
            height = rng.uniform(4.5, 7.5) if low else tall
            free = rng.uniform(0, 0.05) if not low else rng.uniform(1.5, 4)
            pose = _at(street, sign * (side.front + back + depth / 2), middle, BUILDING)
            _house(stage, pose, (depth, height, length - free), low)
            if low:
                _border(stage, street, sign, middle, length)
                if rng.chance(0.6):
                    _tree(stage, street, sign * (side.front + 1.8), middle + rng.uniform(-4, 4))
        elif kind == "trees":
            for _ in range(rng.integer(2, 4)):
                out = side.front + rng.uniform(1.5, 9)
                _tree(stage, street, sign * out, along + rng.uniform(0, length))
            for _ in range(rng.integer(1, 3)):
                out = side.front + rng.uniform(0.6, 5)
                pose = _at(street, sign * out, along + rng.uniform(0, length), VEGETATION)
                furniture.bush(stage, pose, rng.uniform(1, 2.6), rng.uniform(0.7, 2.0))
            if rng.chance(0.5):
                _border(stage, street, sign, middle, length)
        elif kind == "hedge":
            pose = _at(street, sign * (side.front + 0.6), middle, VEGETATION)
            _hedge(stage, pose, length, rng.uniform(1.0, 2.4))
            _tree(stage, street, sign * (side.front + 4), middle)
        else:
            pose = _at(street, sign * (side.front + 0.3), middle, WALL if kind == "wall" else FENCE)
            _barrier(stage, pose, length - 0.1)
            if rng.chance(0.7):
                pose = _at(street, sign * (side.front + rng.uniform(12, 18)), middle, BUILDING)
                size = (rng.uniform(8, 12), rng.uniform(4, 10), length * 0.8)
                _house(stage, pose, size, rng.chance(0.4))
            for _ in range(rng.integer(0, 2)):
                out = side.front + rng.uniform(2, 7)
                _tree(stage, street, sign * out, along + rng.uniform(0, length))
        along = end


def _border(stage: Stage, street: Street, sign: int, middle: float, length: float) -> None:
    kind = stage.rng.choice((WALL, FENCE, FENCE, VEGETATION))
    pose = _at(street, sign * (street.side(sign).front + 0.3), middle, kind)
    if kind == VEGETATION:
        _hedge(stage, pose, length - 2, stage.rng.uniform(0.7, 1.5))
    else:
        _barrier(stage, pose, length - 0.1)


def _tree(stage: Stage, street: Street, lateral: float, along: float) -> None:
    if along > 4:
        furniture.tree(stage, _at(street, lateral, along, VEGETATION), height=stage.rng.uniform(4.5, 11))


def _along(rng: RandomStream, street: Street, first: float, step: float, last: float) -> list[float]:
    """Return positions along a curb, about `step` meters apart, none on the intersection or the crosswalk."""
    places, along = [], first
    while along < last:
        if not street.crossed(along - 2, along + 2) and not (street.crosswalk[0] - 2 < along < street.crosswalk[1] + 2):
            places.append(along)
        along += step * rng.uniform(0.7, 1.3)
    return places


def furnish(stage: Stage, street: Street, sign: int) -> None:
    """Set trees, lamps, signs, traffic lights, and trash cans along one curb."""
    rng = stage.rng
    side = street.side(sign)
    near = side.curb + 0.45
    if rng.chance(0.5):
        row = max(near, (side.verge[0] + side.verge[1]) / 2) + 0.3
        height = rng.uniform(4.5, 9)
        for along in _along(rng, street, rng.uniform(7, 16), rng.uniform(7, 14), 80):
            pose = _at(street, sign * row, along, VEGETATION)
            furniture.tree(stage, pose, height=height * rng.uniform(0.85, 1.15))
    arm = -sign * rng.uniform(1.2, 2.4) if rng.chance(0.6) else 0
    tall, thick = rng.uniform(5, 8.5), rng.uniform(0.13, 0.24)
    for along in _along(rng, street, rng.uniform(6, 22), rng.uniform(14, 26), 85):
        furniture.pole(stage, _at(street, sign * near, along, POLE), tall, thick, arm)
    if rng.chance(0.4):  # bollards
        for along in _along(rng, street, rng.uniform(5, 25), 2.2, rng.uniform(20, 40)):
            furniture.pole(stage, _at(street, sign * (side.curb + 0.25), along, POLE), 0.95, 0.11)
    for along in _along(rng, street, rng.uniform(6, 20), 17, 70):
        if rng.chance(0.75):
            pose = _at(street, sign * (near + rng.uniform(0, 0.5)), along, TRAFFIC_SIGN)
            furniture.sign(stage, pose, rng.uniform(2.2, 3.2))
    if sign > 0 and rng.chance(0.3):
        pose = _at(street, near + 1.4, rng.uniform(16, 45), TRAFFIC_SIGN)
        furniture.board(stage, pose, rng.uniform(1.6, 2.8), rng.uniform(2.8, 3.8))
    stop = min(street.crossing[0], street.crosswalk[0]) - 0.7
    if stop < 1e3 and rng.chance(0.85):
        arm = -sign * rng.uniform(2.5, 5) if rng.chance(0.4) else 0
        height = rng.uniform(5.2, 6) if arm else rng.uniform(3.2, 3.7)
        furniture.traffic_light(stage, _at(street, sign * near, stop, TRAFFIC_LIGHT), height, arm)
        if street.crossing[1] < 1e3:
            far = street.crossing[1] + 1
            furniture.traffic_light(stage, _at(street, sign * near, far, TRAFFIC_LIGHT), 3.4)
    if rng.chance(0.35):
        along = rng.uniform(8, 40)
        furniture.trash_can(stage, _at(street, sign * (side.walk[1] - 0.4), along, STATIC))


def close(stage: Stage, street: Street) -> None:
    """Close the view at the far end with houses or shrubs across the street."""
    rng = stage.rng
    x, yaw = street.place(0, FAR + 15)
    green = rng.chance(0.5)
    across = -75.0
    while across < 75:
        width = rng.uniform(10, 24)
        if green:
            pose = Pose(x + across, 0, FAR + rng.uniform(5, 25), yaw, VEGETATION)
            furniture.bush(stage, pose, width * 1.1, rng.uniform(7, 13))
        else:
            pose = Pose(x + across + width / 2, 0, FAR + 20, yaw, BUILDING)
            _house(stage, pose, (width, rng.uniform(8, 18), 10), rng.chance(0.3))
        across += width * (0.7 if green else 1.0)
