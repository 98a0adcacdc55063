"""Repeating noise textures, and how they are sampled."""

import functools

import cv2
import numpy as np

NOISE_SIZE = 512


@functools.cache
def noise(slope: float) -> np.ndarray:
    """Return a seamlessly repeating noise texture whose amplitude spectrum is 1 / frequency ** slope.

    Args:
        slope: 0 = grain, 1 = blotches, 1.6 = clouds.

    Returns:
        float32 [512, 512], read-only, scaled to standard deviation 1 and clipped to ±2.5.
    """
    white = np.random.Generator(np.random.PCG64(7)).standard_normal((NOISE_SIZE, NOISE_SIZE))
    y, x = np.fft.fftfreq(NOISE_SIZE)[:, None], np.fft.rfftfreq(NOISE_SIZE)[None]
    frequency = np.hypot(y, x)
    frequency[0, 0] = 1
    # Wavelengths below three texels would only flicker.
    spectrum = np.fft.rfft2(white) * frequency**-slope * np.exp(-((frequency / 0.33) ** 4))
    spectrum[0, 0] = 0
    texture = np.fft.irfft2(spectrum, s=white.shape)
    texture = np.clip(texture / texture.std(), -2.5, 2.5).astype(np.float32)
    texture.setflags(write=False)
    return texture


def sample(texture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample a repeating texture bilinearly at arbitrary points.

    Args:
        texture: float32 or uint8 [size, size] or [size, size, C].
        x: float32 [N], columns; any value.
        y: float32 [N], rows.

    Returns:
        [N] or [N, C], in the texture's dtype.
    """
    # cv2.remap needs two-dimensional maps with sides below 32768.
    count, width, size = x.size, 1024, texture.shape[0]
    if not count:
        return np.empty((0, *texture.shape[2:]), texture.dtype)
    grid = np.zeros((2, -(-count // width), width), np.float32)
    for values, plane in zip((x, y), grid.reshape(2, -1), strict=True):
        part = plane[:count]
        np.floor(values * np.float32(1 / size), out=part)
        np.subtract(values, part * size, out=part)
    wrapped = cv2.remap(texture, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return wrapped.reshape(-1, *texture.shape[2:])[:count]


def window(
    texture: np.ndarray, start: tuple[float, float], step: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
    """Sample a repeating texture bilinearly on a regular grid.

    Args:
        texture: float32 [size, size].
        start: column and row of the first sample.
        step: texels from one sample to the next, along x and y.
        size: (width, height) of the grid.

    Returns:
        float32 [height, width].
    """
    matrix = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(texture, matrix, size, flags=flags, borderMode=cv2.BORDER_WRAP)
