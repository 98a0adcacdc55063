"""From a table of parts to what the rasteriser and the shader need, for all parts at once.

On a plane the inverse depth is an affine function of the picture's coordinates: with the plane
n · P = −s in camera coordinates (s > 0: the camera is outside) a ray D = (x, y, 1) meets it where
1 / Z = −n · D / s. A convex solid is entered at the smallest 1 / Z of the planes that the camera is
outside of, and left at the largest of the others. So a solid is a handful of affine functions, Z is
the exact depth along the optical axis, and the z-buffer holds inverse depth: a larger one is nearer,
0 is the sky.
"""

from typing import NamedTuple

import numpy as np

from mtlflax.data.streets.camera import Camera
from mtlflax.data.streets.scene import column
from mtlflax.data.streets.shapes import (
    BACK,
    BOTTOM,
    ELLIPSOID,
    FRONT,
    MAX_PLANES,
    NAMES,
    SHAPES,
    TOP,
)
from mtlflax.data.streets.surface import Material

NEAR = 0.4  # metres; what is nearer is clipped when bounds are computed
_NORMALS, _OFFSETS, _KINDS, _PLANES = (
    np.stack(columns) for columns in zip(*(SHAPES[name] for name in NAMES), strict=True)
)


class Geometry(NamedTuple):
    """Parts as a camera sees them; F = 14 · P faces, face 14 · p + j is plane j of part p.

    Attributes:
        rotation: float64 [P, 3, 3], from a part's axes to the world's.
        coefficients: float64 [P, 14, 3]: 1 / Z = coefficients · (x, y, 1) on a plane; first come
            the planes that the camera is outside of.
        planes: int64 [P, 14], the number j of each of these planes.
        entered: int64 [P], how many the camera is outside of.
        used: int64 [P], how many there are in all.
        outside: float32 [F], distance |s| of the camera from a face.
        bounds: float64 [P, 4], left, top, right, bottom in the plane Z = 1; empty where unseen.
        nearest: float64 [P], the largest 1 / Z that a part can have.
        quadrics: float64 [P, 3, 3], for ellipsoids: a ray D hits where D · Q · D > 0.
        middles: float64 [P, 2], a ray (x, y, 1) about which D · Q · D is developed, as
        slopes: float64 [P, 3]: its derivatives along x and y there, and its value.
        heights: float64 [P], what D · Q · D is for a ray through the ellipsoid's middle.
        forward: float64 [P, 3] and
        closeness: float64 [P]: there 1 / Z = (forward · D + √(D · Q · D)) / closeness.
        normals: float32 [F, 3], world.
        axes: float32 [8, F], texture axes u and v in camera coordinates, then their origins.
        kinds: uint8 [F], of `shapes`.
    """

    rotation: np.ndarray
    coefficients: np.ndarray
    planes: np.ndarray
    entered: np.ndarray
    used: np.ndarray
    outside: np.ndarray
    bounds: np.ndarray
    nearest: np.ndarray
    quadrics: np.ndarray
    middles: np.ndarray
    slopes: np.ndarray
    heights: np.ndarray
    forward: np.ndarray
    closeness: np.ndarray
    normals: np.ndarray
    axes: np.ndarray
    kinds: np.ndarray


def _rotations(parts: np.ndarray) -> np.ndarray:
    yaw, tilt = column(parts, "yaw"), column(parts, "tilt")
    sin, cos, rise, level = np.sin(yaw), np.cos(yaw), np.sin(tilt), np.cos(tilt)
    zero = np.zeros_like(yaw)
    turned = np.stack([cos, zero, sin, zero, zero + 1, zero, -sin, zero, cos], 1).reshape(-1, 3, 3)
    tilted = np.stack([zero + 1, zero, zero, zero, level, -rise, zero, rise, level], 1)
    return turned @ tilted.reshape(-1, 3, 3)


_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_ENDS = [(i, j) for i in range(8) for j in range(i) if np.abs(_SIGNS[i] - _SIGNS[j]).sum() == 2]
_FROM, _TO = np.array(_ENDS).T


def _bounds(corners: np.ndarray) -> np.ndarray:
    """Bounds of boxes, [P, 8, 3] corners in camera coordinates, cut off at the near plane."""
    seen = corners[..., 2] > NEAR
    flat = corners[..., :2] / np.maximum(corners[..., 2:], NEAR)
    low = np.where(seen[..., None], flat, np.inf).min(1)
    high = np.where(seen[..., None], flat, -np.inf).max(1)
    some = np.flatnonzero(seen.any(1) & ~seen.all(1))
    start, end = corners[some][:, _FROM], corners[some][:, _TO]
    crossing = (start[..., 2] > NEAR) != (end[..., 2] > NEAR)
    run = np.where(crossing, end[..., 2] - start[..., 2], 1)
    share = (NEAR - start[..., 2]) / run
    cut = (start + share[..., None] * (end - start))[..., :2] / NEAR
    low[some] = np.minimum(low[some], np.where(crossing[..., None], cut, np.inf).min(1))
    high[some] = np.maximum(high[some], np.where(crossing[..., None], cut, -np.inf).max(1))
    return np.concatenate([low, high], 1)


def build(parts: np.ndarray, camera: Camera) -> Geometry:
    """Computes the geometry of all parts."""
    shape = column(parts, "shape").astype(int)
    half = column(parts, "half_x", "half_y", "half_z")
    rotation = _rotations(parts)
    away = camera.position - column(parts, "x", "y", "z")  # from the middle to the camera
    to_camera = camera.rotation

    normals = np.einsum("pij,pkj->pki", rotation, _NORMALS[shape] / half[:, None])
    length = np.linalg.norm(normals, axis=2)
    length[length == 0] = 1
    normals /= length[..., None]
    outside = np.einsum("pki,pi->pk", normals, away) - _OFFSETS[shape] / length
    outside = np.where(np.abs(outside) < 1e-6, -1e-6, outside)
    coefficients = -(normals @ to_camera.T) / outside[..., None]
    order = np.argsort(outside <= 0, axis=1, kind="stable")
    coefficients = np.take_along_axis(coefficients, order[..., None], 1)

    # Leaves stand out of their ellipsoid by a quarter at most.
    leafy = column(parts, "material") == Material.LEAVES
    reach = half * np.where(leafy, 1.3, 1.0)[:, None]
    corners = np.einsum("pij,pkj->pki", rotation, _SIGNS * reach[:, None]) - away[:, None]
    corners = corners @ to_camera.T
    bounds = _bounds(corners)
    nearest = 1 / np.maximum(corners[..., 2].min(1), 1e-3)

    # In a frame in which the ellipsoid is the unit sphere: the camera, and a ray's direction.
    squeeze = rotation.transpose(0, 2, 1) / half[..., None]
    eye = np.einsum("pij,pj->pi", squeeze, away)
    direct = squeeze @ to_camera.T
    closeness = (eye**2).sum(1) - 1
    inner = eye[:, :, None] * eye[:, None] - closeness[:, None, None] * np.eye(3)
    quadrics = direct.transpose(0, 2, 1) @ inner @ direct
    forward = -np.einsum("pij,pi->pj", direct, eye)
    # In single precision the polynomial is only good near the middle of what is seen.
    limits = np.where(np.isfinite(bounds), bounds, 0)
    middles = (limits[:, :2] + limits[:, 2:]) / 2
    ray = np.concatenate([middles, np.ones((len(parts), 1))], 1)
    slopes = np.einsum("pij,pj->pi", quadrics, ray)
    slopes = np.concatenate([2 * slopes[:, :2], (slopes * ray).sum(1, keepdims=True)], 1)
    heights = (forward * ray).sum(1) ** 2 / np.maximum(closeness + 1, 1e-9)
    within = np.where(shape == ELLIPSOID, closeness <= 0, (outside <= 0).all(1))
    bounds[within] = (1, 1, -1, -1)  # from inside, nothing is seen of it

    kinds = _KINDS[shape]
    along = np.isin(kinds, (FRONT, BACK, TOP, BOTTOM))
    flat = np.isin(kinds, (TOP, BOTTOM))
    side, up, ahead = (rotation[:, None, :, i] for i in range(3))
    u_axis = np.where(along[..., None], side, ahead)
    v_axis = np.where(flat[..., None], ahead, up)
    # What is round has no flat faces: its texture runs through it askew.
    curved = (shape == ELLIPSOID)[:, None, None]
    u_axis = np.where(curved, side + 0.6 * ahead, u_axis)
    v_axis = np.where(curved, up + 0.4 * ahead, v_axis)
    u_origin = np.einsum("pki,pi->pk", u_axis, away)
    v_origin = np.einsum("pki,pi->pk", v_axis, away) + np.where(flat, 0, half[:, 1:2])
    axes = np.concatenate([u_axis @ to_camera.T, v_axis @ to_camera.T, u_origin[..., None], v_origin[..., None]], 2)
    faces = len(parts) * MAX_PLANES
    return Geometry(
        rotation,
        coefficients,
        order,
        (outside > 0).sum(1),
        _PLANES[shape],
        np.abs(outside).reshape(faces).astype(np.float32),
        bounds,
        nearest,
        quadrics,
        middles,
        slopes,
        heights,
        forward,
        closeness,
        normals.reshape(faces, 3).astype(np.float32),
        np.ascontiguousarray(axes.reshape(faces, 8).T, np.float32),
        kinds.reshape(faces).astype(np.uint8),
    )
