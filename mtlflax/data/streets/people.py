"""Who is on a street: walking, standing, riding."""

import math

from mtlflax.data.streets import vehicles
from mtlflax.data.streets.palette import BARKS, CLOTHES, PAINTS, SKINS
from mtlflax.data.streets.stage import COARSE, Frame, Stage
from mtlflax.data.streets.surface import Material


def person(stage: Stage, frame: Frame, *, seated: bool = False, lift: float = 0) -> None:
    """Adds somebody walking or standing; seated ones are bent as riders are."""
    dice = stage.dice
    tall = dice.uniform(0.93, 1.08) * (0.68 if not seated and dice.chance(0.1) else 1)
    skin = dice.choice(SKINS)
    shirt, trousers = dice.choice(CLOTHES), dice.choice(CLOTHES)
    stride = dice.uniform(0.05, 0.42)
    if seated:
        for side in (-0.13, 0.13):
            at, size = (side, lift - 0.12, 0.12), (0.17, 0.19, 0.56)
            stage.put(frame, "box", at, size, trousers, tilt=0.25)
            bend = 0.25 if side < 0 else -0.1
            at, size = (side, lift - 0.58, 0.3 + bend * 0.3), (0.13, 0.52, 0.15)
            stage.put(frame, "column", at, size, trousers, tilt=bend)
        hip, lean = lift, dice.uniform(0.2, 0.45)
    else:
        hip, lean = 0.82 * tall, 0.0
        skirt = dice.chance(0.15)
        for side, angle in ((-0.09, stride), (0.09, -stride)):
            size = (0.17, hip + 0.04, 0.19)
            at = (side * tall, 0, -0.5 * hip * math.sin(angle))
            color = skin if skirt else trousers
            stage.put(frame, "column", at, size, color, Material.CLOTH, tilt=angle)
        if skirt:
            stage.put(frame, "cab", (0, hip * 0.55, 0), (0.42, hip * 0.6, 0.34), shirt)
    torso = 0.6 * tall
    forward = math.sin(lean) * torso
    at = (0, hip - 0.06, forward * 0.5)
    size = (0.44 * tall, torso + 0.1, 0.27)
    stage.put(
        frame,
        "ellipsoid",
        (at[0], at[1], at[2]),
        (size[0] * 1.05, size[1] * 1.08, 0.3),
        shirt,
        Material.CLOTH,
        tilt=lean,
    )
    shoulders = hip + torso * math.cos(lean)
    for side in (-1, 1) if frame.z < COARSE else ():
        swing = -1.0 if seated else -side * stride * 0.8
        long = 0.6 * tall
        at = (
            side * 0.25 * tall,
            shoulders - 0.06 - long / 2 - long / 2 * math.cos(swing),
            forward - math.sin(swing) * long / 2,
        )
        stage.put(frame, "column", at, (0.11, long, 0.12), shirt, Material.CLOTH, tilt=swing)
    at = (0, shoulders + 0.02, forward * 1.1)
    stage.put(frame, "ellipsoid", at, (0.21, 0.27, 0.23), skin)
    if frame.z > COARSE:
        return
    hair = dice.choice(BARKS) if not seated or dice.chance(0.4) else dice.choice(PAINTS)
    at = (0, shoulders + 0.1, forward * 1.1 - 0.03)
    stage.put(frame, "ellipsoid", at, (0.23, 0.2, 0.24), hair)
    if not seated and frame.z < COARSE and dice.chance(0.3):
        at = (0, hip + 0.1, -0.2)
        stage.put(frame, "box", at, (0.3, 0.42, 0.17), dice.choice(CLOTHES))


def cyclist(stage: Stage, frame: Frame, rider: Frame) -> None:
    """Adds a bicycle (or, by its label, a motorcycle) and who rides it."""
    if frame.label == 32:
        vehicles.motorcycle(stage, frame)
        person(stage, rider, seated=True, lift=0.88)
    else:
        vehicles.bicycle(stage, frame)
        person(stage, rider, seated=True, lift=0.98)
