"""A finished frame as Cityscapes would hold it: photograph, label ids, 16-bit disparity.

To the rendered street this adds the hood of the recording car, the void borders, sensor noise, and the gaps of stereo
matching: pixels outside the other camera's view, hidden from it by something nearer, on the hood, along the image
borders, and in patches of the sky and of smooth surfaces.
"""

from typing import NamedTuple

import numpy as np

from mtlflax.data import units
from mtlflax.data.streets.camera import FULL_HEIGHT, FULL_WIDTH, Camera, full_columns, full_rows
from mtlflax.data.streets.label_ids import (
    BUILDING,
    EGO_VEHICLE,
    OUT_OF_ROI,
    RECTIFICATION_BORDER,
    ROAD,
    SKY,
    VEGETATION,
)
from mtlflax.data.streets.noise import noise, window
from mtlflax.data.streets.random_stream import RandomStream
from mtlflax.data.streets.render import Rendered, develop, render
from mtlflax.data.streets.scene import SPLITS, Scene, draw


class RecordedFrame(NamedTuple):
    """The image and ground truth of one frame.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        label: uint8 [H, W], label ids.
        instance: uint16 [H, W], number of an object among those of its label; 0 for stuff.
        codes: uint16 [H, W], disparity as Cityscapes stores it (`mtlflax.data.units`).
        camera: the camera that took it.
    """

    image: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    codes: np.ndarray
    camera: Camera


def make(seed: int, split: str, index: int, size: tuple[int, int]) -> RecordedFrame:
    """Make a frame: the same arguments give the same bits; another size shows the same scene."""
    scene = draw(seed, split, index)
    rng = RandomStream(seed, SPLITS.index(split), index, 1)
    rendered = render(scene, size)
    x = full_columns(np.arange(size[1]), size[1])
    y = full_rows(np.arange(size[0]), *size)
    codes = _disparity(scene, rendered, x, y)
    ego = _hood(scene, rendered, rng, x, y)
    codes[ego & (_blotches(scene, x, y, 9.0, 4) < 1.0)] = 0

    border = _border(x, y)
    rendered.label[border > 0] = border[border > 0]
    rendered.instance[(border > 0) | ego] = 0
    rendered.color[border == RECTIFICATION_BORDER] *= 0.3
    grain = rng.generator.standard_normal((*size, 3), np.float32) * np.float32(scene.light.grain)
    image = develop(rendered.color, scene.light.gain, grain)
    return RecordedFrame(image, rendered.label, rendered.instance, codes, scene.camera)


def _blotches(scene: Scene, x: np.ndarray, y: np.ndarray, scale: float, which: int) -> np.ndarray:
    """Return image-plane noise of mean 0 and deviation 1, `scale` full-width pixels per texel: float32 [H, W]."""
    step = (x[-1] - x[0]) / max(len(x) - 1, 1) / scale
    shift = scene.texture + 97 * which
    start = (x[0] / scale + shift, y[0] / scale + shift)
    return window(noise(1.0), start, (step, step), (len(x), len(y)))


def _disparity(scene: Scene, rendered: Rendered, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Encode the depth as disparity, without what a stereo camera would not measure: uint16 [H, W]."""
    focal_baseline = scene.camera.focal_baseline
    with np.errstate(divide="ignore"):
        codes = units.metres_to_codes(1 / rendered.inverse, focal_baseline)
    # The column where the right camera sees a point. Another point hides it if it lies to the right of it here and to
    # the left of it there.
    right = x.astype(np.float32) - rendered.inverse * np.float32(focal_baseline)
    nearest = np.minimum.accumulate(right[:, ::-1], axis=1)[:, ::-1]
    label = rendered.label
    limit = np.full(256, 2.1, np.float32)
    limit[[SKY, ROAD, BUILDING, VEGETATION]] = 0.5, 1.35, 1.7, 2.0
    unmatched = _blotches(scene, x, y, 12.0, 0) > limit[label]
    codes[(right < 0) | (right > nearest + 1.5) | unmatched] = 0
    codes[(y < 30) | (y >= FULL_HEIGHT - 54)] = 0
    codes[:, (x < 10) | (x >= FULL_WIDTH - 10)] = 0
    return codes


def _hood(scene: Scene, rendered: Rendered, rng: RandomStream, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint the recording car's hood at the bottom of the image, and return its mask: bool [H, W]."""
    middle, top = rng.uniform(960, 1090), rng.uniform(880, 965)
    bend = rng.uniform(35, 75)
    lip = top + bend * ((x - middle) / 1024) ** 2
    depth = (y[:, None] - lip[None]).astype(np.float32)
    inside = depth >= 0
    start = int(np.argmax(inside.any(1))) if inside.any() else len(y)
    part = depth[start:]
    paint = rng.choice((0.02, 0.03, 0.05, 0.22))
    light = scene.light
    # The hood reflects the sky near its front edge and darkens toward the windshield.
    mirror = 0.32 * np.exp(-np.maximum(part, 0) / 60) + 0.05
    streak = 0.03 * np.cos((x - middle) / 130).astype(np.float32)[None]
    color = (paint * light.ambient + (mirror + streak)[..., None] * light.horizon).astype(np.float32)
    # Blend the edge over one pixel to anti-alias it.
    step = FULL_WIDTH / len(x)
    share = np.clip(part / step + 0.5, 0, 1)[..., None]
    rendered.color[start:] += share * (color - rendered.color[start:])
    rendered.label[inside] = EGO_VEHICLE
    return inside


def _border(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the label ids of the void border around the image, 0 inside: uint8 [H, W]."""
    border = np.zeros((len(y), len(x)), np.uint8)
    border[y >= FULL_HEIGHT - 10] = RECTIFICATION_BORDER
    border[(y < 5) | (y >= FULL_HEIGHT - 5)] = OUT_OF_ROI
    border[:, (x < 5) | (x >= FULL_WIDTH - 5)] = OUT_OF_ROI
    return border
