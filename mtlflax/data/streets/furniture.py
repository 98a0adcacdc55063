"""What stands beside a street: trees, shrubs, poles, signs, signals, bins."""

import math

from mtlflax.data.streets.palette import BARKS, LEAVES, METALS, PAINTS, SIGN_COLORS, Color, shade
from mtlflax.data.streets.stage import COARSE, DARK, Frame, Stage
from mtlflax.data.streets.surface import Material


def tree(stage: Stage, frame: Frame, *, height: float) -> None:
    """Adds a tree: a trunk and a crown of several clumps."""
    dice = stage.dice
    bark, leaf = dice.choice(BARKS), dice.choice(LEAVES)
    stem = height * dice.uniform(0.28, 0.42)
    thick = height * dice.uniform(0.028, 0.045)
    size = (thick, stem * 1.4, thick)
    stage.put(frame, "column", (0, 0, 0), size, bark, Material.BARK)
    conifer = dice.chance(0.15)
    clumps = dice.integer(3, 6)
    wide = (height - stem) * dice.uniform(0.55, 0.85)
    for i in range(clumps):
        if conifer:
            part = i / clumps
            across = wide * (0.9 - 0.75 * part)
            size = (across, (height - stem) * 0.5, across)
            at = (0.0, stem * 0.5 + (height - stem) * part * 0.85, 0.0)
        else:
            angle, out = dice.uniform(0, 6.28), dice.uniform(0.05, 0.32) * wide
            across = wide * dice.uniform(0.55, 0.85)
            size = (across, across * dice.uniform(0.7, 1.0), across)
            rise = stem * 0.8 + (height - stem - size[1] * 0.8) * (i + 0.3) / clumps
            at = (out * math.cos(angle), rise, out * math.sin(angle))
        _leaves(stage, frame, at, size, leaf)


def bush(stage: Stage, frame: Frame, width: float, height: float) -> None:
    """Adds a shrub of one or two clumps."""
    leaf = stage.dice.choice(LEAVES)
    _leaves(stage, frame, (0, -height * 0.15, 0), (width, height * 1.15, width), leaf)
    if stage.dice.chance(0.5):
        at = (stage.dice.uniform(-0.4, 0.4) * width, -height * 0.2, width * 0.3)
        _leaves(stage, frame, at, (width * 0.8, height * 0.9, width * 0.8), leaf)


def _leaves(
    stage: Stage,
    frame: Frame,
    at: tuple[float, float, float],
    size: tuple[float, float, float],
    leaf: Color,
) -> None:
    color = shade(leaf, stage.dice.uniform(0.8, 1.2))
    places = (stage.dice.uniform(0, 500), stage.dice.uniform(0, 500), 0.0, 0.0)
    stage.put(frame, "ellipsoid", at, size, color, Material.LEAVES, params=places)


def pole(stage: Stage, frame: Frame, height: float, thick: float, arm: float = 0) -> None:
    """Adds a pole, with a lamp on an arm where `arm` is not 0 (metres to the right)."""
    metal = stage.dice.choice(METALS)
    stage.put(frame, "column", (0, 0, 0), (thick, height, thick), metal)
    if frame.z < COARSE:
        stage.put(frame, "column", (0, 0, 0), (thick * 1.6, 0.6, thick * 1.6), metal)
    if arm:
        at = (arm / 2, height - 0.1, 0)
        stage.put(frame, "box", at, (abs(arm), thick * 0.6, thick * 0.6), metal)
        at = (arm * 0.95, height - 0.16, 0)
        stage.put(frame, "box", at, (0.65, 0.13, 0.28), shade(metal, 1.2))


def sign(stage: Stage, frame: Frame, height: float) -> None:
    """Adds a traffic sign on a pole; it faces the frame's −z."""
    dice = stage.dice
    stage.put(frame, "column", (0, 0, 0), (0.08, height, 0.08), METALS[1], label=17)
    for i in range(1 + dice.chance(0.3)):
        shape = dice.choice(("disc", "disc", "triangle", "diamond", "octagon", "box", "box"))
        size = dice.uniform(0.62, 0.95)
        wide = size * (dice.uniform(1.0, 1.8) if shape == "box" else 1)
        face, mark = dice.choice(SIGN_COLORS)
        at = (0, height - size * (i + 1), -0.07)
        params = (wide, size, dice.random(), float(shape == "triangle"))
        stage.put(frame, shape, at, (wide, size, 0.03), face, Material.SIGN, mark, params, label=20)


def board(stage: Stage, frame: Frame, width: float, height: float) -> None:
    """Adds a large direction sign on two posts."""
    face, mark = stage.dice.choice(SIGN_COLORS[:3])
    for x in (-0.35 * width, 0.35 * width):
        stage.put(frame, "column", (x, 0, 0), (0.1, height + 0.3, 0.1), METALS[1], label=17)
    params = (width, height * 0.45, stage.dice.random(), 0.0)
    at, size = (0, height * 0.6, -0.09), (width, height * 0.45, 0.05)
    stage.put(frame, "box", at, size, face, Material.SIGN, mark, params, label=20)


def traffic_light(stage: Stage, frame: Frame, height: float, arm: float = 0) -> None:
    """Adds a signal on a pole, and a second one on an arm over the road where there is one."""
    stage.put(frame, "column", (0, 0, 0), (0.13, height, 0.13), METALS[0], label=17)
    state = float(stage.dice.integer(0, 2))
    places = [(0.0, min(height, 3.2) - 1.05, -0.18)]
    if arm:
        size = (abs(arm), 0.1, 0.1)
        stage.put(frame, "box", (arm / 2, height - 0.1, 0), size, METALS[0], label=17)
        places.append((arm * 0.97, height - 0.75, -0.15))
    for at in places:
        params = (0.4, 1.08, state, 0.0)
        size = (0.4, 1.08, 0.26)
        stage.put(frame, "box", at, size, (0.07, 0.08, 0.075), Material.SIGNAL, DARK, params, label=19)


def bin(stage: Stage, frame: Frame) -> None:
    """Adds a litter bin or a distribution box: static, not scored."""
    size = (stage.dice.uniform(0.4, 0.9), stage.dice.uniform(0.7, 1.3), 0.45)
    stage.put(frame, "box", (0, 0, 0), size, stage.dice.choice(PAINTS + LEAVES))
