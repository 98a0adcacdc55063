"""People: walking, standing, or riding."""

import math

from mtlflax.data.streets.palette import BARKS, CLOTHES, PAINTS, SKINS
from mtlflax.data.streets.stage import COARSE, Pose, Stage
from mtlflax.data.streets.surface import Material


def person(stage: Stage, pose: Pose, *, seated: bool = False, lift: float = 0) -> None:
    """Add a person who walks or stands or, if `seated`, rides on a saddle at height `lift` (meters)."""
    rng = stage.rng
    tall = rng.uniform(0.93, 1.08) * (0.68 if not seated and rng.chance(0.1) else 1)
    skin = rng.choice(SKINS)
    shirt, trousers = rng.choice(CLOTHES), rng.choice(CLOTHES)
    stride = rng.uniform(0.05, 0.42)
    if seated:
        for side in (-0.13, 0.13):
            at, size = (side, lift - 0.12, 0.12), (0.17, 0.19, 0.56)
            stage.put(pose, "box", at, size, trousers, tilt=0.25)
            bend = 0.25 if side < 0 else -0.1
            at, size = (side, lift - 0.58, 0.3 + bend * 0.3), (0.13, 0.52, 0.15)
            stage.put(pose, "column", at, size, trousers, tilt=bend)
        hip, lean = lift, rng.uniform(0.2, 0.45)
    else:
        hip, lean = 0.82 * tall, 0.0
        skirt = rng.chance(0.15)
        for side, angle in ((-0.09, stride), (0.09, -stride)):
            size = (0.17, hip + 0.04, 0.19)
            at = (side * tall, 0, -0.5 * hip * math.sin(angle))
            color = skin if skirt else trousers
            stage.put(pose, "column", at, size, color, Material.CLOTH, tilt=angle)
        if skirt:
            stage.put(pose, "cab", (0, hip * 0.55, 0), (0.42, hip * 0.6, 0.34), shirt)
    torso = 0.6 * tall
    forward = math.sin(lean) * torso
    at, size = (0, hip - 0.06, forward * 0.5), (0.44 * tall * 1.05, (torso + 0.1) * 1.08, 0.3)
    stage.put(pose, "ellipsoid", at, size, shirt, Material.CLOTH, tilt=lean)
    shoulders = hip + torso * math.cos(lean)
    for side in (-1, 1) if pose.z < COARSE else ():
        swing = -1.0 if seated else -side * stride * 0.8
        long = 0.6 * tall
        at = (
            side * 0.25 * tall,
            shoulders - 0.06 - long / 2 - long / 2 * math.cos(swing),
            forward - math.sin(swing) * long / 2,
        )
        stage.put(pose, "column", at, (0.11, long, 0.12), shirt, Material.CLOTH, tilt=swing)
    at = (0, shoulders + 0.02, forward * 1.1)
    stage.put(pose, "ellipsoid", at, (0.21, 0.27, 0.23), skin)
    if pose.z > COARSE:
        return
    hair = rng.choice(BARKS) if not seated or rng.chance(0.4) else rng.choice(PAINTS)
    at = (0, shoulders + 0.1, forward * 1.1 - 0.03)
    stage.put(pose, "ellipsoid", at, (0.23, 0.2, 0.24), hair)
    if not seated and pose.z < COARSE and rng.chance(0.3):
        at = (0, hip + 0.1, -0.2)
        stage.put(pose, "box", at, (0.3, 0.42, 0.17), rng.choice(CLOTHES))
