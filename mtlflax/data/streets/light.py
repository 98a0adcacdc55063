"""The light of a scene: where the sun stands, what the sky looks like, how hazy the air is."""

import math
from typing import NamedTuple

import numpy as np

from mtlflax.data.streets.dice import Dice


class Light(NamedTuple):
    """Linear RGB, for albedos of 0 to 1.

    Attributes:
        to_sun: float64 [3], world, of length 1.
        sun: float32 [3], its light on a surface that faces it.
        ambient: float32 [3], the sky's light on a surface that faces up.
        zenith: float32 [3], the sky's colour there; `horizon` and `cloud` likewise.
        horizon: float32 [3]; haze has it, too.
        cloud: float32 [3].
        clouds: from where on the clouds' noise shows: −2 = overcast, 2 = clear.
        haze: 1/m, share of light lost per metre.
        lamps: 0 by day, 1 when windows and headlights are lit.
        gain: float32 [3], exposure and white balance of the camera.
        grain: standard deviation of the sensor's noise, in 8-bit steps.
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


# sun, ambient, zenith, horizon, cloud; clouds from/to; haze from/to; lamps
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


def draw_light(dice: Dice) -> Light:
    """Draws a weather and a time of the day."""
    kind = dice.choice(("sunny",) * 9 + ("overcast",) * 7 + ("foggy",) * 2 + ("dusk",) * 2)
    sun, ambient, zenith, horizon, cloud, clouds, haze, lamps = _WEATHERS[kind]
    height = math.radians(dice.uniform(6, 14) if kind == "dusk" else dice.uniform(18, 58))
    around = dice.uniform(0, 2 * math.pi)
    to_sun = np.array([math.cos(height) * math.sin(around), math.sin(height), math.cos(height) * math.cos(around)])
    strength = dice.uniform(0.8, 1.15)
    exposure = dice.uniform(0.85, 1.3) * (1.15 if kind == "dusk" else 1)
    balance = [dice.uniform(0.93, 1.05), 1.0, dice.uniform(0.9, 1.06)]
    return Light(
        to_sun,
        np.array(sun, np.float32) * np.float32(strength),
        np.array(ambient, np.float32),
        np.array(zenith, np.float32),
        np.array(horizon, np.float32),
        np.array(cloud, np.float32),
        dice.uniform(*clouds),
        dice.uniform(*haze),
        lamps,
        np.array(balance, np.float32) * np.float32(exposure),
        dice.uniform(1.0, 3.0),
    )
