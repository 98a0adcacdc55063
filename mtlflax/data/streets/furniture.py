"""Objects beside a street: trees, shrubs, poles, signs, traffic lights, trash cans."""

import math

from mtlflax.data.streets.label_ids import POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN
from mtlflax.data.streets.palette import BARKS, LEAVES, METALS, PAINTS, SIGN_COLORS, Color, shade
from mtlflax.data.streets.stage import COARSE, DARK, Pose, Stage
from mtlflax.data.streets.surface import Material


def tree(stage: Stage, pose: Pose, *, height: float) -> None:
    """Add a tree: a trunk and a crown of several clumps."""
    rng = stage.rng
    bark, leaf = rng.choice(BARKS), rng.choice(LEAVES)
    stem = height * rng.uniform(0.28, 0.42)
    thick = height * rng.uniform(0.028, 0.045)
    size = (thick, stem * 1.4, thick)
    stage.put(pose, "column", (0, 0, 0), size, bark, Material.BARK)
    conifer = rng.chance(0.15)
    clumps = rng.integer(3, 6)
    wide = (height - stem) * rng.uniform(0.55, 0.85)
    for i in range(clumps):
        if conifer:
            part = i / clumps
            across = wide * (0.9 - 0.75 * part)
            size = (across, (height - stem) * 0.5, across)
            at = (0.0, stem * 0.5 + (height - stem) * part * 0.85, 0.0)
        else:
            angle, out = rng.uniform(0, 6.28), rng.uniform(0.05, 0.32) * wide
            across = wide * rng.uniform(0.55, 0.85)
            size = (across, across * rng.uniform(0.7, 1.0), across)
            rise = stem * 0.8 + (height - stem - size[1] * 0.8) * (i + 0.3) / clumps
            at = (out * math.cos(angle), rise, out * math.sin(angle))
        _leaves(stage, pose, at, size, leaf)


def bush(stage: Stage, pose: Pose, width: float, height: float) -> None:
    """Add a shrub of one or two clumps."""
    leaf = stage.rng.choice(LEAVES)
    _leaves(stage, pose, (0, -height * 0.15, 0), (width, height * 1.15, width), leaf)
    if stage.rng.chance(0.5):
        at = (stage.rng.uniform(-0.4, 0.4) * width, -height * 0.2, width * 0.3)
        _leaves(stage, pose, at, (width * 0.8, height * 0.9, width * 0.8), leaf)


def _leaves(
    stage: Stage, pose: Pose, at: tuple[float, float, float], size: tuple[float, float, float], leaf: Color
) -> None:
    color = shade(leaf, stage.rng.uniform(0.8, 1.2))
    places = (stage.rng.uniform(0, 500), stage.rng.uniform(0, 500), 0.0, 0.0)
    stage.put(pose, "ellipsoid", at, size, color, Material.LEAVES, params=places)


def pole(stage: Stage, pose: Pose, height: float, thick: float, arm: float = 0) -> None:
    """Add a pole, with a lamp on an arm if `arm` is not 0 (meters to the right)."""
    metal = stage.rng.choice(METALS)
    stage.put(pose, "column", (0, 0, 0), (thick, height, thick), metal)
    if pose.z < COARSE:
        stage.put(pose, "column", (0, 0, 0), (thick * 1.6, 0.6, thick * 1.6), metal)
    if arm:
        at = (arm / 2, height - 0.1, 0)
        stage.put(pose, "box", at, (abs(arm), thick * 0.6, thick * 0.6), metal)
        at = (arm * 0.95, height - 0.16, 0)
        stage.put(pose, "box", at, (0.65, 0.13, 0.28), shade(metal, 1.2))


def sign(stage: Stage, pose: Pose, height: float) -> None:
    """Add a traffic sign on a pole, or two; it faces −z of the pose."""
    rng = stage.rng
    stage.put(pose, "column", (0, 0, 0), (0.08, height, 0.08), METALS[1], label=POLE)
    for i in range(1 + rng.chance(0.3)):
        shape = rng.choice(("disc", "disc", "triangle", "diamond", "octagon", "box", "box"))
        size = rng.uniform(0.62, 0.95)
        wide = size * (rng.uniform(1.0, 1.8) if shape == "box" else 1)
        face, mark = rng.choice(SIGN_COLORS)
        at = (0, height - size * (i + 1), -0.07)
        params = (wide, size, rng.random(), float(shape == "triangle"))
        stage.put(pose, shape, at, (wide, size, 0.03), face, Material.SIGN, mark, params, label=TRAFFIC_SIGN)


def board(stage: Stage, pose: Pose, width: float, height: float) -> None:
    """Add a large direction sign on two posts."""
    face, mark = stage.rng.choice(SIGN_COLORS[:3])
    for x in (-0.35 * width, 0.35 * width):
        stage.put(pose, "column", (x, 0, 0), (0.1, height + 0.3, 0.1), METALS[1], label=POLE)
    params = (width, height * 0.45, stage.rng.random(), 0.0)
    at, size = (0, height * 0.6, -0.09), (width, height * 0.45, 0.05)
    stage.put(pose, "box", at, size, face, Material.SIGN, mark, params, label=TRAFFIC_SIGN)


def traffic_light(stage: Stage, pose: Pose, height: float, arm: float = 0) -> None:
    """Add a traffic light on a pole, and a second one on an arm if `arm` is not 0 (meters to the right)."""
    stage.put(pose, "column", (0, 0, 0), (0.13, height, 0.13), METALS[0], label=POLE)
    state = float(stage.rng.integer(0, 2))
    places = [(0.0, min(height, 3.2) - 1.05, -0.18)]
    if arm:
        size = (abs(arm), 0.1, 0.1)
        stage.put(pose, "box", (arm / 2, height - 0.1, 0), size, METALS[0], label=POLE)
        places.append((arm * 0.97, height - 0.75, -0.15))
    for at in places:
        params = (0.4, 1.08, state, 0.0)
        size = (0.4, 1.08, 0.26)
        stage.put(pose, "box", at, size, (0.07, 0.08, 0.075), Material.SIGNAL, DARK, params, label=TRAFFIC_LIGHT)


def trash_can(stage: Stage, pose: Pose) -> None:
    """Add a trash can or utility box (label 'static', which is not scored)."""
    size = (stage.rng.uniform(0.4, 0.9), stage.rng.uniform(0.7, 1.3), 0.45)
    stage.put(pose, "box", (0, 0, 0), size, stage.rng.choice(PAINTS + LEAVES))
