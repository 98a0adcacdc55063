"""Procedural textures of vehicles: paint, glass, lights, wheels."""

import numpy as np

from mtlflax.data.streets.noise import noise, sample
from mtlflax.data.streets.shapes import BACK, FRONT, SIDE, TOP
from mtlflax.data.streets.surface import Shaded, Surface, cover, mix, rgb, stains, stripe


def _lights(s: Surface, width: np.ndarray | float, height: np.ndarray | float, low: float, high: float) -> Shaded:
    """Return albedo and glow of the head and tail lights of a vehicle, 0 elsewhere."""
    level = s.v / height
    lamp = (np.abs(np.abs(s.u) - 0.39 * width) < 0.085 * width) & (level > low) & (level < high)
    ends = np.stack([lamp & (s.kind == FRONT), lamp & (s.kind == BACK)]).astype(np.float32)
    white_red = np.array([[0.8, 0.8, 0.75], [0.5, 0.03, 0.02]], np.float32)
    glow = 2 * white_red.T @ ends
    braking = (0.35 * (s.params[2] < 0.25)).astype(np.float32) * ends[1]
    shining = s.lamps * (s.params[2] < 0.9)
    return white_red.T @ ends, glow * np.maximum(shining, braking)


def car(s: Surface) -> Shaded:
    """Shade the lower part of a car: doors, wheel arches, lights, license plate."""
    length, width = s.params[0], s.params[1]
    height = 0.72
    level = s.v / height
    color = s.color * stains(s, 10, 0.03)
    ends = (s.kind == FRONT) | (s.kind == BACK)
    sides = s.kind == SIDE
    arch = np.hypot(np.abs(s.u) - 0.3 * length, s.v - 0.12)
    dark = sides * np.maximum(cover(arch, 0.39, s.pixel), cover(s.v, 0.07, s.pixel))
    seam = np.minimum(np.abs(s.u + 0.12 * length), np.abs(s.u - 0.14 * length))
    dark = np.maximum(dark, sides * 0.6 * stripe(seam, 0.012, s.slant) * (s.pixel < 0.05))
    grille = (s.kind == FRONT) & (np.abs(s.u) < 0.27 * width) & (level > 0.25) & (level < 0.55)
    dark = np.maximum(dark, 0.85 * np.maximum(grille, ends & (level < 0.18)))
    color = mix(color, s.accent, dark)
    plate = ends & (np.abs(s.u) < 0.26) & (level > 0.27) & (level < 0.42)
    color = mix(color, 0.62, plate.astype(np.float32))
    lamp, glow = _lights(s, width, height, 0.5, 0.78)
    return np.where(lamp.any(0), lamp, color), glow


def _glassy(s: Surface, level: np.ndarray) -> np.ndarray:
    """Return the color of vehicle windows: dark, with a reflection of the sky at the top."""
    streak = sample(noise(1.6), s.u * 12 + s.part.astype(np.float32) * 31, s.v * 12)
    light = np.maximum(0.035 + 0.13 * level**2 + 0.02 * streak, 0.01)
    return light * rgb(0.85, 0.97, 1.1)


def glass(s: Surface) -> Shaded:
    """Shade the upper part of a car: windows between posts, and the roof."""
    length, height = s.params[0], s.params[1]
    level = s.v / height
    post = np.minimum(np.abs(s.u + 0.03 * length), np.abs(np.abs(s.u) - 0.37 * length))
    frame = (s.kind == SIDE) * cover(post, 0.04, s.slant)
    edge = np.where(s.kind == SIDE, 0.1, 0.13)
    frame = np.maximum(frame, cover(height * (1 - level), edge, s.pixel))
    frame = np.maximum(frame, cover(s.v, 0.05, s.pixel))
    wide = (s.kind == FRONT) | (s.kind == BACK)
    frame = np.maximum(frame, wide * cover(0.78 - np.abs(s.u), 0.1, s.pixel))
    frame = np.where(s.kind == TOP, 1, frame)
    return mix(_glassy(s, np.clip(level, 0, 1)), s.color, frame), None


def coach(s: Surface) -> Shaded:
    """Shade a van, bus, tram, or truck cab: a band of windows all around."""
    length, height, _, sill = s.params
    level = s.v / height
    color = s.color * stains(s, 10, 0.04)
    stripe = cover(np.abs(level - sill * 0.55), 0.09, s.pixel / height)
    color = mix(color, s.accent, stripe)
    ends = (s.kind == FRONT) | (s.kind == BACK)
    bay = s.u / 1.45 - np.floor(s.u / 1.45) - 0.5
    post = (0.5 - np.abs(bay)) * 1.45
    open_side = (s.kind == SIDE) * (1 - cover(post, 0.06, s.slant))
    open_side = open_side * cover(np.abs(s.u), length / 2 - 0.25, s.slant)
    open_side = open_side * ((length > 7) | (s.u > 0.08 * length))  # vans have side windows only in front
    open_end = ends * cover(np.abs(s.u), 1.05, s.pixel)
    band = cover(sill - level, 0, s.pixel / height) * cover(level, 0.89, s.pixel / height)
    window = band * np.maximum(open_side, open_end)
    color = mix(color, _glassy(s, np.clip(level, 0, 1)), window)
    door = (s.kind == SIDE) * cover(np.abs(np.abs(s.u) - 0.28 * length), 0.03, s.slant) * (level < 0.9)
    color = mix(color, 0.03, 0.8 * door)
    board = ends & (level > 0.905) & (level < 0.985) & (np.abs(s.u) < 0.8)
    color = mix(color, 0.02, board.astype(np.float32))
    lamp, glow = _lights(s, 2.4, height, 0.07, 0.15)
    if s.lamps:
        glow = glow + window * (length > 8) * 0.35 * s.lamps * rgb(1, 0.9, 0.65)
    return np.where(lamp.any(0), lamp, color), glow


def panels(s: Surface) -> Shaded:
    """Shade the sheet-metal box of a truck, some with a painted logo."""
    line = np.abs(s.u / 0.9 - np.floor(s.u / 0.9) - 0.5) * 0.9
    color = s.color * stains(s, 8, 0.07)
    seam = stripe(0.45 - line, 0.02, s.slant) * np.clip(0.15 / s.slant - 0.5, 0, 1)
    color = mix(color, s.accent, 0.5 * seam)
    length, height, _, logo = s.params
    painted = (logo > 0.4) & (s.kind == SIDE) & (np.abs(s.u) < 0.36 * length)
    painted &= np.abs(s.v - 0.4 * height) < 0.13 * height
    color = mix(color, s.accent, 0.9 * painted)
    if not s.lamps:
        return color, None
    return color, _lights(s, 2.3, height, 0.02, 0.1)[1]


def wheel(s: Surface) -> Shaded:
    """Shade a tire and its rim."""
    radius = np.float32(0.33)
    distance = np.hypot(s.u, s.v - radius) / radius
    angle = np.arctan2(s.v - radius, s.u)
    spoke = 0.55 + 0.45 * (np.cos(angle * 5) > -0.2)
    share = cover(distance, 0.62, s.pixel / radius) * (s.kind == SIDE)
    return mix(s.color, s.accent * spoke, share), None


def spokes(s: Surface) -> Shaded:
    """Shade a bicycle wheel; `materials.gaps` cuts out the space between the spokes."""
    return s.color, None
