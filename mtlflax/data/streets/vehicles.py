"""Vehicles: cars, trucks, buses, trams, motorcycles, bicycles."""

from mtlflax.data.streets.palette import CLOTHES, METALS, PAINTS, PLASTERS, shade
from mtlflax.data.streets.stage import DARK, Pose, Stage
from mtlflax.data.streets.surface import Material


def car(stage: Stage, pose: Pose) -> None:
    """Add a sedan, station wagon, or van, 3.7 to 5.3 m long."""
    rng = stage.rng
    paint = rng.choice(PAINTS)
    kind = rng.random()
    width, length = rng.uniform(1.7, 1.9), rng.uniform(3.7, 4.8)
    lights = rng.random()
    params = (length, width, lights, 0.0)
    if kind < 0.12:  # a van
        length, height = rng.uniform(4.6, 5.3), rng.uniform(1.85, 2.1)
        params = (length, height, lights, 0.35)
        size = (width, height - 0.25, length)
        stage.put(pose, "cab", (0, 0.25, 0), size, paint, Material.COACH, DARK, params)
    else:
        waist, height = rng.uniform(0.85, 1.0), rng.uniform(1.4, 1.7)
        size = (width, waist - 0.2, length)
        stage.put(pose, "hull", (0, 0.2, 0), size, paint, Material.CAR, DARK, params)
        shape = "wagon" if kind < 0.5 else "cabin"
        long = length * (rng.uniform(0.6, 0.68) if kind < 0.5 else rng.uniform(0.52, 0.6))
        size = (width * 0.97, height - waist + 0.04, long)
        middle = -length * 0.48 + long / 2 if kind < 0.5 else -length * 0.07
        at = (0, waist - 0.04, middle)
        stage.put(pose, shape, at, size, paint, Material.GLASS, DARK, (long, size[1], 0, 0))
    _axles(stage, pose, width + 0.02, 0.32, [-length * 0.3, length * 0.3])


def truck(stage: Stage, pose: Pose) -> None:
    """Add a truck with a box body, 6.2 to 9.5 m long."""
    rng = stage.rng
    paint, box = rng.choice(PAINTS), rng.choice(PAINTS + METALS)
    width, length = rng.uniform(2.2, 2.5), rng.uniform(6.2, 9.5)
    height, cab = rng.uniform(2.7, 3.6), rng.uniform(1.7, 2.1)
    front = length / 2 - cab / 2
    lights = rng.random()
    size = (width * 0.97, rng.uniform(2.2, 2.7), cab)
    params = (cab, size[1], lights, 0.5)
    stage.put(pose, "cab", (0, 0.4, front), size, paint, Material.COACH, DARK, params)
    body = length - cab - 0.15
    at = (0, 0.75, -length / 2 + body / 2)
    size = (width, height - 0.75, body)
    logo = rng.choice(PAINTS)
    stage.put(pose, "box", at, size, box, Material.PANELS, logo, (body, height, lights, rng.random()))
    size = (width * 0.8, 0.35, length * 0.92)
    stage.put(pose, "box", (0, 0.42, -0.2), size, DARK)
    _axles(stage, pose, width, 0.48, [-length * 0.36, -length * 0.22, front])


def bus(stage: Stage, pose: Pose) -> None:
    """Add a city bus, 9.5 to 13 m long."""
    rng = stage.rng
    paint = rng.choice(PAINTS + PLASTERS)
    length, width, height = rng.uniform(9.5, 13), rng.uniform(2.5, 2.6), rng.uniform(2.9, 3.3)
    stripe = rng.choice(PAINTS)
    size = (width, height - 0.3, length)
    params = (length, size[1], rng.random(), rng.uniform(0.36, 0.48))
    stage.put(pose, "box", (0, 0.3, 0), size, paint, Material.COACH, stripe, params)
    size = (width * 0.7, 0.25, length * 0.5)
    stage.put(pose, "box", (0, height, -0.5), size, shade(paint, 0.8))
    _axles(stage, pose, width + 0.01, 0.5, [-length * 0.3, length * 0.28])


def train(stage: Stage, pose: Pose) -> None:
    """Add a tram with two or three cars and a pantograph."""
    rng = stage.rng
    paint, stripe = rng.choice(PAINTS + PLASTERS), rng.choice(PAINTS)
    width, height = 2.45, rng.uniform(3.2, 3.5)
    car, cars = rng.uniform(8.5, 11), rng.integer(2, 3)
    params = (car, height - 0.35, rng.random(), rng.uniform(0.38, 0.5))
    for i in range(cars):
        z = (i - (cars - 1) / 2) * (car + 0.5)
        size = (width, height - 0.35, car)
        stage.put(pose, "box", (0, 0.35, z), size, paint, Material.COACH, stripe, params)
        stage.put(pose, "box", (0, 0.05, z), (width * 0.85, 0.32, car * 0.8), DARK)
        size = (width * 0.6, 0.3, car * 0.6)
        stage.put(pose, "box", (0, height, z), size, shade(METALS[0], 0.7))
        if i:
            size = (width * 0.9, height - 0.6, 0.5)
            stage.put(pose, "box", (0, 0.45, z - car / 2 - 0.25), size, DARK)
    stage.put(pose, "box", (0, height + 0.3, 0), (0.08, 1.3, 0.08), DARK, tilt=0.5)
    stage.put(pose, "box", (0, height + 1.5, 0.5), (1.5, 0.06, 0.12), DARK)


def bicycle(stage: Stage, pose: Pose) -> None:
    """Add a bicycle, 1.75 m long."""
    paint = stage.rng.choice(PAINTS + CLOTHES)
    for z in (-0.53, 0.53):
        stage.put(pose, "wheel", (0, 0, z), (0.05, 0.7, 0.7), (0.04, 0.04, 0.04), Material.SPOKES)
    bars = (
        (0.52, 0.08, 0.62, 1.35),
        (0.82, 0.06, 0.58, 1.57),
        (0.38, 0.3, 0.56, 0.35),
        (0.36, -0.27, 0.5, -1.2),
        (0.4, -0.2, 0.58, -0.35),
    )
    for y, z, long, tilt in bars:
        at = (0, y + 0.06 - long / 2, z)
        stage.put(pose, "column", at, (0.055, long, 0.06), paint, tilt=tilt)
    stage.put(pose, "box", (0, 0.95, -0.28), (0.16, 0.07, 0.27), DARK)
    stage.put(pose, "box", (0, 1.02, 0.36), (0.56, 0.05, 0.06), DARK)


def motorcycle(stage: Stage, pose: Pose) -> None:
    """Add a motorcycle, 2 m long."""
    paint = stage.rng.choice(PAINTS)
    for z in (-0.68, 0.7):
        stage.put(pose, "wheel", (0, 0, z), (0.15, 0.64, 0.64), (0.05, 0.05, 0.05), Material.WHEEL)
    stage.put(pose, "box", (0, 0.28, 0), (0.32, 0.4, 0.75), DARK)
    stage.put(pose, "ellipsoid", (0, 0.55, 0.16), (0.36, 0.42, 0.8), paint)
    stage.put(pose, "box", (0, 0.7, -0.45), (0.28, 0.14, 0.75), DARK, tilt=-0.12)
    stage.put(pose, "ellipsoid", (0, 0.62, -0.75), (0.24, 0.26, 0.5), paint)
    stage.put(pose, "column", (0, 0.3, 0.58), (0.16, 0.75, 0.14), METALS[1], tilt=-0.4)
    stage.put(pose, "ellipsoid", (0, 0.78, 0.6), (0.26, 0.3, 0.24), paint)
    stage.put(pose, "box", (0, 1.02, 0.4), (0.72, 0.06, 0.07), DARK)


def _axles(stage: Stage, pose: Pose, width: float, radius: float, places: list[float]) -> None:
    for z in places:
        size = (width, 2 * radius, 2 * radius)
        stage.put(pose, "wheel", (0, 0, z), size, (0.05, 0.05, 0.05), Material.WHEEL, METALS[1])
