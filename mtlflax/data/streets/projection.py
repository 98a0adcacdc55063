"""Projection of all parts of a scene into a camera: what the rasterizer and the shader need.

On a plane, inverse depth is an affine function of the image coordinates: a ray D = (x, y, 1) meets the plane
n · P = −s (in camera coordinates; s > 0 means that the camera is outside) where 1 / Z = −n · D / s. The ray enters a
convex solid at the smallest 1 / Z of the planes that the camera is outside of, and leaves it at the largest of the
others. So a solid is a handful of affine functions, Z is the exact depth along the optical axis, and the z-buffer holds
inverse depth: larger is nearer, and 0 is the sky.
"""

from typing import NamedTuple

import numpy as np

from mtlflax.data.streets.camera import Camera
from mtlflax.data.streets.scene import column
from mtlflax.data.streets.shapes import BACK, BOTTOM, CUBE_CORNERS, ELLIPSOID, FRONT, MAX_PLANES, NAMES, SHAPES, TOP
from mtlflax.data.streets.surface import Material

NEAR = 0.4  # meters; bounds are clipped at this depth
_NORMALS, _OFFSETS, _KINDS, _PLANES = (
    np.stack(columns) for columns in zip(*(SHAPES[name] for name in NAMES), strict=True)
)


class Projection(NamedTuple):
    """P parts as a camera sees them, with F = 14 · P faces; face 14 · p + j is plane j of part p.

    Attributes:
        rotation: float64 [P, 3, 3], from a part's axes to the world's.
        coefficients: float64 [P, 14, 3]: 1 / Z = coefficients · (x, y, 1) on a plane; the planes that the camera is
            outside of come first.
        planes: int64 [P, 14], the number j of each of these planes.
        entered: int64 [P], number of planes that the camera is outside of.
        used: int64 [P], number of planes in all.
        outside: float32 [F], distance |s| of the camera from a face.
        bounds: float64 [P, 4], left, top, right, bottom in the plane Z = 1; empty where the part is out of view.
        nearest: float64 [P], upper bound of a part's 1 / Z.
        quadrics: float64 [P, 3, 3], for ellipsoids: a ray D hits where D · Q · D > 0.
        centers: float64 [P, 2], the ray (x, y, 1) about which D · Q · D is expanded.
        slopes: float64 [P, 3], derivatives of D · Q · D along x and y at that ray, and its value there.
        heights: float64 [P], D · Q · D of a ray through the center of the ellipsoid.
        forward: float64 [P, 3], for ellipsoids: 1 / Z = (forward · D + √(D · Q · D)) / closeness.
        closeness: float64 [P], see `forward`.
        normals: float32 [F, 3], world.
        axes: float32 [8, F], texture axes u and v in camera coordinates, then their origins.
        kinds: uint8 [F], SIDE, TOP, … of `shapes`.
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
    centers: np.ndarray
    slopes: np.ndarray
    heights: np.ndarray
    forward: np.ndarray
    closeness: np.ndarray
    normals: np.ndarray
    axes: np.ndarray
    kinds: np.ndarray

    def texture_coordinates(
        self, face: np.ndarray, depth: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return u and v, float32 [N] each, of the points at these depths of rays (x, y, 1) on these faces."""
        axes = self.axes.take(face, 1)
        u, v = (depth * (axes[i] * x + axes[i + 1] * y + axes[i + 2]) + axes[6 + i // 3] for i in (0, 3))
        return u, v


def _rotations(parts: np.ndarray) -> np.ndarray:
    yaw, tilt = column(parts, "yaw"), column(parts, "tilt")
    sin, cos, rise, level = np.sin(yaw), np.cos(yaw), np.sin(tilt), np.cos(tilt)
    zero = np.zeros_like(yaw)
    turned = np.stack([cos, zero, sin, zero, zero + 1, zero, -sin, zero, cos], 1).reshape(-1, 3, 3)
    tilted = np.stack([zero + 1, zero, zero, zero, level, -rise, zero, rise, level], 1)
    return turned @ tilted.reshape(-1, 3, 3)


_ENDS = [(i, j) for i in range(8) for j in range(i) if np.abs(CUBE_CORNERS[i] - CUBE_CORNERS[j]).sum() == 2]
_FROM, _TO = np.array(_ENDS).T


def _bounds(corners: np.ndarray) -> np.ndarray:
    """Return the bounds of boxes, clipped at the near plane: float64 [P, 4], from [P, 8, 3] camera coordinates."""
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


def project(parts: np.ndarray, camera: Camera) -> Projection:
    """Project all parts into a camera."""
    shape = column(parts, "shape").astype(int)
    half = column(parts, "half_x", "half_y", "half_z")
    rotation = _rotations(parts)
    away = camera.position - column(parts, "x", "y", "z")  # from the center of a part to the camera
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

    # Leaves stick out of their ellipsoid by a quarter at most.
    leafy = column(parts, "material") == Material.LEAVES
    reach = half * np.where(leafy, 1.3, 1.0)[:, None]
    corners = np.einsum("pij,pkj->pki", rotation, CUBE_CORNERS * reach[:, None]) - away[:, None]
    corners = corners @ to_camera.T
    bounds = _bounds(corners)
    nearest = 1 / np.maximum(corners[..., 2].min(1), 1e-3)

    # The camera and the ray directions, in coordinates in which the ellipsoid is the unit sphere.
    squeeze = rotation.transpose(0, 2, 1) / half[..., None]
    eye = np.einsum("pij,pj->pi", squeeze, away)
    direct = squeeze @ to_camera.T
    closeness = (eye**2).sum(1) - 1
    inner = eye[:, :, None] * eye[:, None] - closeness[:, None, None] * np.eye(3)
    quadrics = direct.transpose(0, 2, 1) @ inner @ direct
    forward = -np.einsum("pij,pi->pj", direct, eye)
    # In single precision the polynomial is accurate only near its center.
    limits = np.where(np.isfinite(bounds), bounds, 0)
    centers = (limits[:, :2] + limits[:, 2:]) / 2
    ray = np.concatenate([centers, np.ones((len(parts), 1))], 1)
    slopes = np.einsum("pij,pj->pi", quadrics, ray)
    slopes = np.concatenate([2 * slopes[:, :2], (slopes * ray).sum(1, keepdims=True)], 1)
    heights = (forward * ray).sum(1) ** 2 / np.maximum(closeness + 1, 1e-9)
    within = np.where(shape == ELLIPSOID, closeness <= 0, (outside <= 0).all(1))
    bounds[within] = (1, 1, -1, -1)  # invisible from inside

    kinds = _KINDS[shape]
    along = np.isin(kinds, (FRONT, BACK, TOP, BOTTOM))
    flat = np.isin(kinds, (TOP, BOTTOM))
    side, up, ahead = (rotation[:, None, :, i] for i in range(3))
    u_axis = np.where(along[..., None], side, ahead)
    v_axis = np.where(flat[..., None], ahead, up)
    # An ellipsoid has no flat faces: tilted axes keep its texture from smearing anywhere.
    curved = (shape == ELLIPSOID)[:, None, None]
    u_axis = np.where(curved, side + 0.6 * ahead, u_axis)
    v_axis = np.where(curved, up + 0.4 * ahead, v_axis)
    u_origin = np.einsum("pki,pi->pk", u_axis, away)
    v_origin = np.einsum("pki,pi->pk", v_axis, away) + np.where(flat, 0, half[:, 1:2])
    axes = np.concatenate([u_axis @ to_camera.T, v_axis @ to_camera.T, u_origin[..., None], v_origin[..., None]], 2)
    faces = len(parts) * MAX_PLANES
    return Projection(
        rotation,
        coefficients,
        order,
        (outside > 0).sum(1),
        _PLANES[shape],
        np.abs(outside).reshape(faces).astype(np.float32),
        bounds,
        nearest,
        quadrics,
        centers,
        slopes,
        heights,
        forward,
        closeness,
        normals.reshape(faces, 3).astype(np.float32),
        np.ascontiguousarray(axes.reshape(faces, 8).T, np.float32),
        kinds.reshape(faces).astype(np.uint8),
    )
