"""A finished frame as the recording car delivers it: photograph, label ids, 16-bit disparity.

On top of the rendered street come the car's own bonnet, the void borders, the sensor's noise, and the places where
stereo matching measures nothing: outside the other camera's view, behind something nearer, in the sky and on smooth
surfaces here and there, on the bonnet, and along the picture's edges.
"""

from typing import NamedTuple

import cv2
import numpy as np

from mtlflax.data import units
from mtlflax.data.streets.camera import (
    FULL_HEIGHT,
    FULL_WIDTH,
    Camera,
    full_columns,
    full_rows,
)
from mtlflax.data.streets.dice import Dice, noise
from mtlflax.data.streets.render import SKY_LABEL, Rendered, develop, render
from mtlflax.data.streets.scene import SPLITS, Scene, draw

EGO, RECTIFICATION, OUT_OF_ROI, ROAD, BUILDING, VEGETATION = 1, 2, 3, 7, 11, 21


class Frame(NamedTuple):
    """One frame.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        label: uint8 [H, W], label ids.
        instance: uint16 [H, W], number of a thing among those of its label; 0 for stuff.
        codes: uint16 [H, W], disparity as Cityscapes stores it (`mtlflax.data.units`).
        camera: where it was taken.
    """

    image: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    codes: np.ndarray
    camera: Camera


def make(seed: int, split: str, index: int, size: tuple[int, int]) -> Frame:
    """Makes a frame; the same arguments give the same bits, another size gives the same scene."""
    scene = draw(seed, split, index)
    dice = Dice(seed, SPLITS.index(split), index, 1)
    rendered = render(scene, size)
    x = full_columns(np.arange(size[1]), size[1])
    y = full_rows(np.arange(size[0]), *size)
    codes = _disparity(scene, rendered, x, y)
    ego = _bonnet(scene, rendered, dice, x, y)
    codes[ego & (_blotches(scene, x, y, 9.0, 4) < 1.0)] = 0

    border = _border(x, y)
    rendered.label[border > 0] = border[border > 0]
    rendered.instance[(border > 0) | ego] = 0
    rendered.color[border == RECTIFICATION] *= 0.3
    grain = dice.generator.standard_normal((*size, 3), np.float32) * np.float32(scene.light.grain)
    image = develop(rendered.color, scene.light.gain, grain)
    return Frame(image, rendered.label, rendered.instance, codes, scene.camera)


def _blotches(scene: Scene, x: np.ndarray, y: np.ndarray, scale: float, which: int) -> np.ndarray:
    """Noise over the picture, `scale` full pixels a texel: float32 [H, W], of mean 0 and deviation 1."""
    step = (x[-1] - x[0]) / max(len(x) - 1, 1) / scale
    shift = scene.texture + 97 * which
    matrix = np.array([[step, 0, x[0] / scale + shift], [0, step, y[0] / scale + shift]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(noise(1.0), matrix, (len(x), len(y)), flags=flags, borderMode=cv2.BORDER_WRAP)


def _disparity(scene: Scene, rendered: Rendered, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Encodes the depth and takes out what a stereo camera would not measure."""
    focal_baseline = scene.camera.focal_baseline
    with np.errstate(divide="ignore"):
        codes = units.metres_to_codes(1 / rendered.inverse, focal_baseline)
    # Where the right camera sees a point; a point further right that appears further left hides it.
    right = x.astype(np.float32) - rendered.inverse * np.float32(focal_baseline)
    nearest = np.minimum.accumulate(right[:, ::-1], axis=1)[:, ::-1]
    label = rendered.label
    limit = np.full(256, 2.1, np.float32)
    limit[[SKY_LABEL, ROAD, BUILDING, VEGETATION]] = 0.5, 1.35, 1.7, 2.0
    unmatched = _blotches(scene, x, y, 12.0, 0) > limit[label]
    codes[(right < 0) | (right > nearest + 1.5) | unmatched] = 0
    codes[(y < 30) | (y >= FULL_HEIGHT - 54)] = 0
    codes[:, (x < 10) | (x >= FULL_WIDTH - 10)] = 0
    return codes


def _bonnet(scene: Scene, rendered: Rendered, dice: Dice, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paints the recording car's bonnet at the bottom of the picture; returns where, bool [H, W]."""
    middle, top = dice.uniform(960, 1090), dice.uniform(880, 965)
    bend = dice.uniform(35, 75)
    lip = top + bend * ((x - middle) / 1024) ** 2
    depth = (y[:, None] - lip[None]).astype(np.float32)
    inside = depth >= 0
    start = int(np.argmax(inside.any(1))) if inside.any() else len(y)
    part = depth[start:]
    paint = dice.choice((0.02, 0.03, 0.05, 0.22))
    light = scene.light
    # It mirrors the sky near its front edge and darkens towards the windscreen.
    mirror = 0.32 * np.exp(-np.maximum(part, 0) / 60) + 0.05
    streak = 0.03 * np.cos((x - middle) / 130).astype(np.float32)[None]
    color = (paint * light.ambient + (mirror + streak)[..., None] * light.horizon).astype(np.float32)
    # The picture is sampled, so the edge is blended over a pixel.
    step = FULL_WIDTH / len(x)
    share = np.clip(part / step + 0.5, 0, 1)[..., None]
    rendered.color[start:] += share * (color - rendered.color[start:])
    rendered.label[inside] = EGO
    return inside


def _border(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Label ids of the void frame about the picture, 0 within: uint8 [H, W]."""
    border = np.zeros((len(y), len(x)), np.uint8)
    border[y >= FULL_HEIGHT - 10] = RECTIFICATION
    border[(y < 5) | (y >= FULL_HEIGHT - 5)] = OUT_OF_ROI
    border[:, (x < 5) | (x >= FULL_WIDTH - 5)] = OUT_OF_ROI
    return border
