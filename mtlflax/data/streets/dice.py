"""Random numbers for drawing a scene, and the noise pictures that textures are made of.

Both are counter-based or fixed, so that a scene depends on its address (seed, split, index) only.
"""

import functools
from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np

T = TypeVar("T")

NOISE_SIZE = 512


class Dice:
    """Draws Python numbers quickly: a Generator's scalar methods would take half the scene's time."""

    def __init__(self, *address: int):
        """Starts the stream that belongs to `address`, numbers that are not negative."""
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(address)))
        self._drawn: list[float] = []

    def random(self) -> float:
        """Returns a number from 0 to 1."""
        if not self._drawn:
            self._drawn = self.generator.random(1024).tolist()
        return self._drawn.pop()

    def uniform(self, low: float, high: float) -> float:
        """Returns a number from `low` to `high`."""
        return low + (high - low) * self.random()

    def chance(self, probability: float) -> bool:
        """Returns True with this probability."""
        return self.random() < probability

    def integer(self, low: int, high: int) -> int:
        """Returns one of `low`, ..., `high`."""
        return low + int((high - low + 1) * self.random())

    def choice(self, things: Sequence[T]) -> T:
        """Returns one of the things."""
        return things[int(len(things) * self.random())]


@functools.cache
def noise(slope: float) -> np.ndarray:
    """Returns a picture of noise that repeats seamlessly, with a spectrum 1 / frequency ** slope.

    Args:
        slope: 0 = grain, 1 = blotches, 1.6 = clouds.

    Returns:
        float32 [512, 512], mean 0, standard deviation 1, clipped to ±2.5.
    """
    white = np.random.Generator(np.random.PCG64(7)).standard_normal((NOISE_SIZE, NOISE_SIZE))
    y, x = np.fft.fftfreq(NOISE_SIZE)[:, None], np.fft.rfftfreq(NOISE_SIZE)[None]
    frequency = np.hypot(y, x)
    frequency[0, 0] = 1
    # Nothing finer than three texels a wave: it would only flicker.
    spectrum = np.fft.rfft2(white) * frequency**-slope * np.exp(-((frequency / 0.33) ** 4))
    spectrum[0, 0] = 0
    picture = np.fft.irfft2(spectrum, s=white.shape)
    picture = np.clip(picture / picture.std(), -2.5, 2.5).astype(np.float32)
    picture.setflags(write=False)
    return picture


def sample(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Reads a repeating picture between its texels (bilinearly).

    Args:
        picture: float32 or uint8 [size, size] or [size, size, C].
        x: float32 [N], columns, any value.
        y: float32 [N], rows.

    Returns:
        [N] or [N, C], of the picture's type.
    """
    # cv2.remap wants two-dimensional maps whose sides are below 32768.
    count, width, size = x.size, 1024, picture.shape[0]
    if not count:
        return np.empty((0, *picture.shape[2:]), picture.dtype)
    grid = np.zeros((2, -(-count // width), width), np.float32)
    for values, plane in zip((x, y), grid.reshape(2, -1), strict=True):
        part = plane[:count]
        np.floor(values * np.float32(1 / size), out=part)
        np.subtract(values, part * size, out=part)
    wrapped = cv2.remap(picture, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return wrapped.reshape(-1, *picture.shape[2:])[:count]
