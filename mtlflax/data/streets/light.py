"""The light of a scene: sun, sky, haze, and the exposure of the camera."""

import math
from typing import NamedTuple

import numpy as np

from mtlflax.data.streets.random_stream import RandomStream


class Light(NamedTuple):
    """Light and weather; colors are linear RGB, for albedos from 0 to 1.

    Attributes:
        to_sun: float64 [3], unit vector, world.
        sun: float32 [3], sunlight on a surface that faces the sun.
        ambient: float32 [3], skylight on a surface that faces up.
        zenith: float32 [3], color of the sky overhead.
        horizon: float32 [3], color of the sky at the horizon, and of haze.
        cloud: float32 [3], color of clouds.
        clouds: threshold of the noise that draws clouds: −2 = overcast, 2 = clear.
        haze: share of light lost per meter.
        lamps: 0 by day, 1 when windows and headlights are lit.
        gain: float32 [3], exposure and white balance of the camera.
        grain: standard deviation of the sensor noise, in 8-bit steps.
    """

    to_sun: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    cloud: np.ndarray
    clouds: float
    haze: float
    lamps: float
    gain: np.ndarray
    grain: float


# sun, ambient, zenith, horizon, cloud; ranges of clouds and haze; lamps
_WEATHERS = {
    "sunny": (
        (1.9, 1.75, 1.5),
        (0.55, 0.62, 0.75),
        (0.22, 0.42, 0.85),
        (0.72, 0.82, 0.92),
        (1.0, 1.0, 1.0),
        (0.3, 1.6),
        (0.0004, 0.0015),
        0.0,
    ),
    "overcast": (
        (0.12, 0.12, 0.12),
        (1.05, 1.07, 1.1),
        (0.72, 0.75, 0.78),
        (0.88, 0.9, 0.9),
        (0.95, 0.96, 0.97),
        (-2.0, -0.5),
        (0.001, 0.004),
        0.0,
    ),
    "foggy": (
        (0.06, 0.06, 0.06),
        (1.0, 1.0, 1.0),
        (0.75, 0.76, 0.76),
        (0.8, 0.81, 0.8),
        (0.85, 0.85, 0.85),
        (-1.5, 0.5),
        (0.008, 0.02),
        0.2,
    ),
    "dusk": (
        (0.55, 0.3, 0.14),
        (0.26, 0.29, 0.4),
        (0.1, 0.16, 0.34),
        (0.75, 0.48, 0.32),
        (0.45, 0.33, 0.33),
        (0.2, 1.4),
        (0.001, 0.004),
        1.0,
    ),
}


def draw_light(rng: RandomStream) -> Light:
    """Draw the weather and the time of day."""
    kind = rng.choice(("sunny",) * 9 + ("overcast",) * 7 + ("foggy",) * 2 + ("dusk",) * 2)
    sun, ambient, zenith, horizon, cloud, clouds, haze, lamps = _WEATHERS[kind]
    height = math.radians(rng.uniform(6, 14) if kind == "dusk" else rng.uniform(18, 58))
    around = rng.uniform(0, 2 * math.pi)
    to_sun = np.array([math.cos(height) * math.sin(around), math.sin(height), math.cos(height) * math.cos(around)])
    strength = rng.uniform(0.8, 1.15)
    exposure = rng.uniform(0.85, 1.3) * (1.15 if kind == "dusk" else 1)
    balance = [rng.uniform(0.93, 1.05), 1.0, rng.uniform(0.9, 1.06)]
    return Light(
        to_sun,
        np.array(sun, np.float32) * np.float32(strength),
        np.array(ambient, np.float32),
        np.array(zenith, np.float32),
        np.array(horizon, np.float32),
        np.array(cloud, np.float32),
        rng.uniform(*clouds),
        rng.uniform(*haze),
        lamps,
        np.array(balance, np.float32) * np.float32(exposure),
        rng.uniform(1.0, 3.0),
    )
