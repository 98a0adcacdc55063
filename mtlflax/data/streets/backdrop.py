"""The ground and the sky, behind all parts."""

import numpy as np

from mtlflax.data.streets import raster, shadows
from mtlflax.data.streets.label_ids import ROAD, SIDEWALK, TERRAIN
from mtlflax.data.streets.noise import noise, sample
from mtlflax.data.streets.scene import Scene
from mtlflax.data.streets.shadows import Shadows
from mtlflax.data.streets.surface import cover, mix, rgb, stripe

_PAINT, _SOIL = rgb(0.62, 0.62, 0.60), rgb(0.22, 0.17, 0.11)


def sky(scene: Scene, ray: np.ndarray) -> np.ndarray:
    """Return the colors of the sky along rays (x, y, 1), which are given as float32 [2, N]: float32 [3, N]."""
    light = scene.light
    rotation = scene.camera.rotation.T.astype(np.float32)
    view = rotation[:, :2] @ ray + rotation[:, 2:]
    view /= np.sqrt((view**2).sum(0))
    rise = np.clip(view[1], 0, 1)
    color = mix(light.horizon[:, None], light.zenith[:, None], np.minimum(rise * 2.2, 1) ** 0.7)
    # Clouds are noise on a plane above the street.
    flat = 60 / (rise + 0.12)
    shape = sample(noise(1.6), view[0] * flat + scene.texture, view[2] * flat)
    share = np.clip((shape - light.clouds) * 0.55, 0, 1) * np.clip(rise * 12, 0, 1)
    color = mix(color, light.cloud[:, None] * (1 - 0.10 * np.clip(shape, 0, 2)), share)
    glare = np.maximum(light.to_sun.astype(np.float32) @ view, 0) ** 24
    return color + 0.35 * glare * light.sun[:, None]


def _painted(scene: Scene, lateral: np.ndarray, ahead: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Return the share of each sample on the road that is covered by paint: float32 [N]."""
    street = scene.street
    share = np.zeros_like(lateral)
    for line in street.markings:
        beside = np.abs(lateral - line.at)
        near = np.flatnonzero(beside < line.width + pixel)
        phase = ahead[near] / line.period
        on = phase - np.floor(phase) < line.on
        share[near] = np.maximum(share[near], stripe(beside[near], line.width / 2, pixel[near]) * on)
    start, end = street.crossing
    share[(ahead > start - 1) & (ahead < end + 1)] = 0
    left, right = street.sides[0].road, street.sides[1].road
    inside = (lateral > -left + 0.3) & (lateral < right - 0.3)
    crosswalk = inside & (ahead > street.crosswalk[0]) & (ahead < street.crosswalk[1])
    share = np.where(crosswalk, (lateral - np.floor(lateral)) < 0.5, share)
    stop = street.crossing[0] - 0.9 if street.crosswalk[0] > 1e3 else street.crosswalk[0] - 1.2
    share[inside & (lateral > -1.6) & (np.abs(ahead - stop) < 0.25)] = 1
    return share


def ground(
    scene: Scene, shade: Shadows, ray: np.ndarray, depth: np.ndarray, level: np.ndarray, focal: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the colors and labels of samples on the ground.

    Args:
        scene: the scene.
        shade: its shadows.
        ray: float32 [2, N], x and y of the rays (x, y, 1).
        depth: float32 [N].
        level: int32 [N], `raster.ROAD`, `RAISED`, or `CURB`.
        focal: focal length in pixels.

    Returns:
        Colors float32 [3, N], and label ids uint8 [N].
    """
    street, light, camera = scene.street, scene.light, scene.camera
    rotation = camera.rotation.astype(np.float32)
    x = depth * (rotation[:2, 0] @ ray + rotation[2, 0]) + np.float32(camera.position[0])
    ahead = depth * (rotation[:2, 2] @ ray + rotation[2, 2])
    lateral = x - np.float32(street.curve / 2) * ahead * ahead
    zone = np.searchsorted(street.edges.astype(np.float32), lateral)
    across = (ahead > street.crossing[0]) & (ahead < street.crossing[1])
    zone[across] = len(street.edges) // 2
    # Rounding may have assigned a raised zone to a sample on the road, or the reverse: the level decides.
    labels = street.labels[zone]
    labels[(level == raster.ROAD) & ((labels == SIDEWALK) | (labels == TERRAIN))] = ROAD
    raised = (level != raster.ROAD) & (labels == ROAD)
    labels[raised | (level == raster.CURB)] = SIDEWALK
    color = street.colors.T.take(zone, 1)
    pixel = depth / np.float32(focal)

    fine = sample(noise(0.0), x * 28, ahead * 28) / (1 + pixel * 60)
    coarse = sample(noise(1.0), x * 9 + scene.texture, ahead * 5)
    tone = 1 + 0.13 * fine + 0.07 * coarse

    grass = np.flatnonzero(labels == TERRAIN)
    blades = sample(noise(0.6), x[grass] * 20, ahead[grass] * 12) / (1 + pixel[grass] * 10)
    tone[grass] += 0.25 * blades + 0.1 * coarse[grass]
    soil = np.clip(coarse[grass] * 0.5 - 0.4, 0, 0.6)
    color[:, grass] = mix(color[:, grass], _SOIL, soil)

    paved = np.flatnonzero((labels == SIDEWALK) & (level == raster.RAISED))
    px, pz, fade = x[paved] * 2, ahead[paved] * 2, pixel[paved]
    long = np.abs(depth[paved] * pixel[paved] / camera.position[1])  # length of a sample on the ground
    gap_x = stripe(0.5 - np.abs(px - np.floor(px) - 0.5), 0.035, fade * 2) * np.clip(0.3 / fade - 1, 0, 1)
    gap_z = stripe(0.5 - np.abs(pz - np.floor(pz) - 0.5), 0.035, long * 2) * np.clip(0.3 / long - 1, 0, 1)
    tone[paved] *= 1 - 0.22 * np.maximum(gap_x, gap_z)
    width = min(street.sides[0].curb, street.sides[1].curb)
    edge = np.flatnonzero((level != raster.ROAD) & (np.abs(lateral) > width - 0.1))
    beyond = np.maximum(-street.sides[0].curb - lateral[edge], lateral[edge] - street.sides[1].curb)
    stone = np.where(level[edge] == raster.CURB, 1, cover(beyond, 0.14, pixel[edge]))
    color[:, edge] = mix(color[:, edge], 0.38, stone)
    labels[edge[beyond < 0.14]] = SIDEWALK

    patch = sample(noise(1.6), x * 3 + scene.texture, ahead * 2) > 1.3
    tone *= 1 - 0.16 * (patch & (labels == ROAD))
    if street.rails:
        beside = np.abs(np.abs(lateral - np.float32(street.lanes[0][0])) - np.float32(0.72))
        at = np.flatnonzero((beside < 0.05 + pixel) & (level == raster.ROAD))
        share = stripe(beside[at], 0.045, pixel[at]) * 0.8
        color[:, at] = mix(color[:, at], 0.06, share)
    share = _painted(scene, lateral, ahead, pixel)
    at = np.flatnonzero((share > 0) & (level == raster.ROAD))
    color[:, at] = mix(color[:, at], _PAINT, share[at] * np.clip(0.85 - 0.18 * coarse[at], 0.3, 1))

    color *= np.maximum(tone, 0.2)
    cast, contact = shadows.look_up(shade.map, x, ahead).T
    sun, above = light.sun * np.float32(light.to_sun[1]), light.ambient
    color *= (1 - cast) * sun[:, None] + (1 - 0.5 * contact) * above[:, None]
    return color, labels
