"""Procedural textures: albedo and emitted light as functions of the position on a face."""

from collections.abc import Callable

import numpy as np

from mtlflax.data.streets import bodywork
from mtlflax.data.streets.noise import noise, sample
from mtlflax.data.streets.shapes import BACK, FRONT, SIDE
from mtlflax.data.streets.surface import Material, Shaded, Surface, cover, hashed, mix, rgb, stains, stripe


def _plain(s: Surface) -> Shaded:
    return s.color * stains(s, 25, 0.05), None


def _cloth(s: Surface) -> Shaded:
    return s.color * stains(s, 60, 0.14), None


def _facade(s: Surface) -> Shaded:
    story, bay, ratio, style = s.params
    wall = s.color * stains(s, 14, 0.10)
    # Old brick walls show their courses.
    course = np.abs(s.v / 0.25 - np.floor(s.v / 0.25) - 0.5)
    joint = stripe(0.5 - course, 0.06, s.pixel / 0.25) * (style > 0.6) * np.clip(0.12 / s.pixel - 0.5, 0, 1)
    wall *= 1 - 0.25 * joint
    row, column = np.floor(s.v / story), np.floor(s.u / bay)
    across = np.abs(s.u - (column + 0.5) * bay)
    up = s.v - (row + 0.5) * story
    ground = row == 0
    shop = ground & (style > 0.35)
    half = np.where(shop, 0.43, ratio / 2) * bay
    tall = np.where(shop, 0.36, 0.29) * story
    rise = np.abs(up - np.where(shop, -0.06, 0.03) * story)
    pane = cover(across, half, s.slant) * cover(rise, tall, s.pixel)
    frame = cover(across, half + 0.1, s.slant) * cover(rise, tall + 0.1, s.pixel)
    cornice = stripe(story / 2 - np.abs(up), 0.09, s.pixel) * ~ground
    wall = mix(wall, s.accent, np.maximum(cornice * 0.7, frame))
    # Panes reflect the sky at the top and show dark rooms below; some have curtains.
    luck = hashed(row, column, s.part)
    light = 0.03 + 0.11 * np.clip(up / story + 0.5, 0, 1) + 0.22 * (luck > 0.75) * ~shop
    glass = light * rgb(0.85, 0.95, 1.1)
    cross = stripe(across, 0.035, s.slant) * (bay > 2) * (s.pixel < 0.1) * ~shop
    glass = mix(glass, s.accent, cross)
    upright = ((s.kind == SIDE) | (s.kind == FRONT) | (s.kind == BACK)).astype(np.float32)
    pane = pane * upright
    albedo = mix(wall, glass, pane)
    if not s.lamps:
        return albedo, None
    lit = pane * (hashed(column, row, s.part) > np.where(shop, 0.3, 0.62)) * s.lamps
    return albedo, lit * rgb(0.75, 0.55, 0.28)


def _roof(s: Surface) -> Shaded:
    row = np.abs(s.v * 3 - np.floor(s.v * 3) - 0.5)
    line = stripe(0.5 - row, 0.15, s.pixel * 3) * np.clip(0.25 / s.pixel - 0.5, 0, 1)
    return s.color * ((1 - 0.25 * line) * stains(s, 12, 0.12)), None


def _bricks(s: Surface) -> Shaded:
    high, style = s.params[0], s.params[1]
    wide = high * np.where(style > 0.5, 3.0, 2.2)
    row = np.floor(s.v / high)
    along = s.u / wide + 0.5 * (row % 2)
    column = np.floor(along)
    edge = np.minimum(0.5 * high - np.abs(s.v - (row + 0.5) * high), (0.5 - np.abs(along - column - 0.5)) * wide)
    seen = np.clip(high / s.slant - 0.8, 0, 1)
    joint = stripe(edge, high * 0.07, s.pixel) * seen
    tone = 1 + (hashed(row, column, s.part) - 0.5) * 0.35 * seen
    return s.color * (tone * (1 - 0.35 * joint) * stains(s, 20, 0.10)), None


def _leaves(s: Surface) -> Shaded:
    shift = s.params[0]
    fine = sample(noise(0.6), s.u * 30 + shift, s.v * 30) / (1 + s.pixel * 15)
    coarse = sample(noise(1.0), s.u * 9, s.v * 9 + shift)
    tone = np.maximum(1 + 0.30 * fine + 0.28 * coarse, 0.15)
    yellow = np.float32(0.06) * coarse
    color = s.color * tone
    color[0] *= 1 + yellow
    return color, None


def _bark(s: Surface) -> Shaded:
    streak = sample(noise(0.6), s.u * 60, s.v * 8) / (1 + s.pixel * 30)
    return s.color * (1 + 0.3 * streak), None


def _fence(s: Surface) -> Shaded:
    return s.color * stains(s, 30, 0.12), None


def _sign(s: Surface) -> Shaded:
    width, height, style, triangle = s.params
    x, y = np.abs(s.u) / (width / 2), s.v / height
    ring = np.where(
        triangle > 0,
        np.minimum(y - 0.07, (0.93 - y - x * 0.87) * 0.46) < 0.12,
        np.where(style > 0.5, np.hypot(x, y * 2 - 1) > 0.74, np.maximum(x, np.abs(y * 2 - 1)) > 0.86),
    )
    text = (np.abs(y * 4 - np.floor(y * 4) - 0.5) < 0.22) & (x < 0.3 + 0.5 * hashed(np.floor(y * 4), s.part))
    text &= (y > 0.22) & (y < 0.8) & (width > 0.5)
    mark = np.maximum(ring, text & (triangle == 0)).astype(np.float32)
    face = mix(s.color, s.accent, mark)
    back = rgb(0.30, 0.31, 0.32)
    return np.where(s.kind == BACK, face, back), None


def _signal(s: Surface) -> Shaded:
    width, height, state, _ = s.params
    lamp = np.clip(np.floor(s.v / height * 3), 0, 2)
    distance = np.hypot(s.u, s.v - (lamp + 0.5) * height / 3)
    share = cover(distance, 0.135, s.pixel) * (s.kind == BACK)
    hues = np.array([[0.05, 0.9, 0.45], [1.0, 0.6, 0.05], [1.0, 0.08, 0.05]], np.float32)
    hue = hues.T[:, lamp.astype(int)]
    lit = (lamp == state).astype(np.float32) * share
    border = cover(width / 2 - np.abs(s.u), 0.03, s.pixel) * (s.kind == BACK) * 0.4
    color = mix(mix(s.color, 0.6, border), hue * 0.12, share)
    return color, hue * lit * np.float32(1.1)


def gaps(material: Material, u: np.ndarray, v: np.ndarray, params: np.ndarray) -> np.ndarray:
    """Return where a fence or a spoked wheel is open: bool [N]."""
    if material == Material.SPOKES:
        distance = np.hypot(u, v - 0.35)
        angle = np.arctan2(v - 0.35, u) * (8 / np.pi)
        spoke = np.abs(angle - np.rint(angle)) * distance < 0.012
        return (distance < 0.3) & ~spoke
    period, kind, height = params[:3]
    across = np.abs(u / period - np.floor(u / period) - 0.5) * period
    rail = (np.abs(v - 0.12) < 0.04) | (np.abs(v - height + 0.12) < 0.04)
    post = np.abs(u / 2.4 - np.rint(u / 2.4)) * 2.4 < 0.05
    if kind == 1:  # boards with slits
        return (across > period * 0.42) & ~rail & ~post
    if kind == 2:  # wire mesh
        up = np.abs(v / period - np.floor(v / period) - 0.5) * period
        return (np.minimum(across, up) > 0.018) & ~post
    return (across > 0.028) & ~rail & ~post


SHADERS: dict[Material, Callable[[Surface], Shaded]] = {
    Material.PLAIN: _plain,
    Material.FACADE: _facade,
    Material.ROOF: _roof,
    Material.BRICKS: _bricks,
    Material.FENCE: _fence,
    Material.LEAVES: _leaves,
    Material.HEDGE: _leaves,
    Material.BARK: _bark,
    Material.CLOTH: _cloth,
    Material.CAR: bodywork.car,
    Material.GLASS: bodywork.glass,
    Material.COACH: bodywork.coach,
    Material.PANELS: bodywork.panels,
    Material.WHEEL: bodywork.wheel,
    Material.SPOKES: bodywork.spokes,
    Material.SIGN: _sign,
    Material.SIGNAL: _signal,
}
