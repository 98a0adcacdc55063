"""Rendering, block by block: the visible face of each sample, then its color."""

from typing import NamedTuple

import cv2
import numpy as np

from mtlflax.data.streets import backdrop, label_ids, raster, shadows
from mtlflax.data.streets.camera import FULL_WIDTH, full_columns, full_rows
from mtlflax.data.streets.materials import SHADERS
from mtlflax.data.streets.projection import Projection, project
from mtlflax.data.streets.raster import Buffers, rasterize
from mtlflax.data.streets.scene import Scene, column
from mtlflax.data.streets.shadows import Shadows
from mtlflax.data.streets.shapes import ELLIPSOID, MAX_PLANES
from mtlflax.data.streets.surface import Material, Surface

_GROUND = max(Material) + 1
_SKY = _GROUND + 1
_BLOCK = 150_000  # samples rendered at once: bounds memory and fits the processor's cache


class Rendered(NamedTuple):
    """An image in linear light, and its ground truth.

    Attributes:
        color: float32 [H, W, 3], linear RGB.
        label: uint8 [H, W], label ids.
        instance: uint16 [H, W], number of an object among those of its label; 0 for stuff.
        inverse: float32 [H, W], 1 / Z in 1/m; 0 = sky.
    """

    color: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    inverse: np.ndarray


def render(scene: Scene, size: tuple[int, int]) -> Rendered:
    """Render a scene at a size (H, W).

    Samples lie half a pixel apart. Label and depth are those of the sample at a pixel's center. So is the color, unless
    the nine samples in and around the pixel lie on more than one face: then it is their mean, weighted 1 2 1.
    """
    height, width = size
    rig = scene.camera.rig
    x = (full_columns(np.arange(-1, 2 * width) / 2, width) - rig.u0) / rig.fx
    y = (full_rows(np.arange(-1, 2 * height) / 2, height, width) - rig.v0) / rig.fy
    projection = project(scene.parts, scene.camera)
    shade = shadows.build(scene, projection)
    painter = _Painter(scene, projection, shade, rig.fx * width / FULL_WIDTH)
    rendered = Rendered(
        np.empty((height, width, 3), np.float32),
        np.empty((height, width), np.uint8),
        np.empty((height, width), np.uint16),
        np.empty((height, width), np.float32),
    )
    rows = max(1, _BLOCK // (2 * x.size))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        block = y[2 * top : 2 * bottom + 1]
        buffers = rasterize(scene, projection, x, block)
        color, label, instance = painter.paint(buffers, x, block)
        rendered.color[top:bottom] = color.transpose(1, 2, 0)
        rendered.label[top:bottom] = label
        rendered.instance[top:bottom] = instance
        rendered.inverse[top:bottom] = buffers.true_inverse[1::2, 1::2]
    return rendered


def _planes(parts: np.ndarray, *names: str) -> np.ndarray:
    return np.ascontiguousarray(column(parts, *names).T, np.float32)


def _edges(face: np.ndarray) -> np.ndarray:
    """Return which pixels have more than one face in their nine samples: bool [h, w]."""
    middle = face[1::2, 1::2]
    beside = (face[:, 0:-2:2] != face[:, 1:-1:2]) | (face[:, 1:-1:2] != face[:, 2::2])
    edge = beside[0:-2:2] | beside[1:-1:2] | beside[2::2]
    return edge | (face[0:-2:2, 1::2] != middle) | (face[2::2, 1::2] != middle)


class _Painter:
    """The shader of a scene; it colors samples by tables that are built once."""

    def __init__(self, scene: Scene, projection: Projection, shade: Shadows, focal: float):
        self.scene, self.projection, self.shade, self.focal = scene, projection, shade, focal
        parts = scene.parts
        self.round = column(parts, "shape") == ELLIPSOID
        self.colors = _planes(parts, "red", "green", "blue")
        self.accents = _planes(parts, "accent_red", "accent_green", "accent_blue")
        self.params = _planes(parts, "p0", "p1", "p2", "p3")
        faces, count = len(parts) * MAX_PLANES, len(parts)
        # Tables from face to part, material, and ground truth; the three faces of the ground and the sky come last.
        # The label of the ground stays 0 here: `backdrop.ground` decides it.
        self.parts = np.append(np.repeat(np.arange(count), MAX_PLANES), [count] * 4)
        material = column(parts, "material").astype(np.uint8)
        self.groups = np.append(material, [_GROUND, _SKY]).astype(np.uint8)[
            np.append(self.parts[:faces], [count] * 3 + [count + 1])
        ]
        self.labels = np.append(column(parts, "label"), [0]).astype(np.uint8)[self.parts]
        self.labels[faces + raster.SKY] = label_ids.SKY
        self.instances = np.append(column(parts, "instance"), [0]).astype(np.uint16)[self.parts]
        self.first = faces
        self.centers = (column(parts, "x", "y", "z") - scene.camera.position).astype(np.float32)
        # The gradient of the equation of an ellipsoid is its normal.
        half = column(parts, "half_x", "half_y", "half_z")
        turned = projection.rotation / half[:, None] ** 2
        self.gradients = (turned @ projection.rotation.transpose(0, 2, 1)).astype(np.float32)
        self.to_sun = scene.light.to_sun.astype(np.float32)
        self.faces = self._lit(projection.normals, np.repeat(shade.lit, MAX_PLANES))

    def _lit(self, normals: np.ndarray, sunlit: np.ndarray) -> np.ndarray:
        """Return the light that falls on surfaces from the sun and from the sky (less on walls): float32 [3, N]."""
        light = self.scene.light
        sun = np.maximum(normals @ self.to_sun, 0) * sunlit
        sky = 0.68 + 0.32 * normals[:, 1] - 0.1 * normals[:, 0]
        return sun * light.sun[:, None] + sky * light.ambient[:, None]

    def paint(self, buffers: Buffers, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pixels' colors float32 [3, h, w], label ids uint8 [h, w], and instances uint16 [h, w]."""
        shape, face = buffers.face.shape, buffers.face.reshape(-1)
        edge = _edges(buffers.face)
        wanted = np.zeros(shape, bool)
        for i in range(3):
            for j in range(3):
                wanted[i : shape[0] - 2 + i : 2, j : shape[1] - 2 + j : 2] |= edge
        wanted[1::2, 1::2] = True
        places = np.flatnonzero(wanted).astype(np.int32)
        # Sort samples by material, so that each shader runs once.
        group = self.groups.take(face.take(places))
        order = places.take(np.argsort(group, kind="stable"))
        ends = np.cumsum(np.bincount(group, minlength=_SKY + 1))
        solid, ground = slice(0, ends[_GROUND - 1]), slice(ends[_GROUND - 1], ends[_GROUND])
        row = order // np.int32(shape[1])
        col = order - row * np.int32(shape[1])
        ray = np.stack([x.astype(np.float32).take(col), y.astype(np.float32).take(row)])
        face = face.take(order)
        depth = 1 / buffers.inverse.reshape(-1).take(order[: ends[_GROUND]])
        sky = backdrop.sky(self.scene, ray[:, ends[_GROUND] :])
        parts = self._solids(ends, face[solid], depth[solid], ray[:, solid])
        earth, found = backdrop.ground(
            self.scene, self.shade, ray[:, ground], depth[ground], face[ground] - self.first, self.focal
        )
        near = np.exp(-self.scene.light.haze * depth)
        far = self.scene.light.horizon[:, None]
        color = np.zeros((3, buffers.face.size), np.float32)
        for at, values in ((solid, parts), (ground, earth)):
            color[:, order[at]] = far + near[at] * (values - far)
        color[:, order[ends[_GROUND] :]] = sky
        grounds = np.zeros(buffers.face.size, np.uint8)
        grounds[order[ground]] = found
        # Label and instance are those at the pixel centers.
        truth = buffers.true_face[1::2, 1::2]
        label, instance = self.labels.take(truth), self.instances.take(truth)
        np.copyto(label, grounds.reshape(shape)[1::2, 1::2], where=label == 0)
        color = color.reshape(3, *shape)
        across = color[..., 0:-2:2] + 2 * color[..., 1:-1:2] + color[..., 2::2]
        mean = (across[:, 0:-2:2] + 2 * across[:, 1:-1:2] + across[:, 2::2]) / 16
        return np.where(edge, mean, color[:, 1::2, 1::2]), label, instance

    def _solids(self, ends: np.ndarray, face: np.ndarray, depth: np.ndarray, ray: np.ndarray) -> np.ndarray:
        """Return the colors of samples on parts, which are sorted by material: float32 [3, N]."""
        scene, part = self.scene, self.parts.take(face)
        rotation = scene.camera.rotation.astype(np.float32)
        height = depth * (rotation[:2, 1] @ ray + rotation[2, 1])
        height += np.float32(scene.camera.position[1])
        light = self.faces.take(face, 1)
        pixel = depth / np.float32(self.focal)
        # The cosine of the angle between ray and normal: the texture is compressed by it.
        length = np.sqrt((ray**2).sum(0) + 1)
        facing = self.projection.outside.take(face) / (depth * length)
        curved = np.flatnonzero(self.round.take(part))
        if curved.size:
            owner = part[curved]
            view = ray[:, curved].T @ rotation[:2] + rotation[2]
            away = depth[curved, None] * view - self.centers[owner]
            normal = np.einsum("nij,nj->ni", self.gradients[owner], away)
            normal /= np.sqrt((normal**2).sum(1, keepdims=True))
            light[:, curved] = self._lit(normal, self.shade.lit[owner])
            facing[curved] = np.abs((normal * view).sum(1)) / length[curved]
        u, v = self.projection.texture_coordinates(face, depth, ray[0], ray[1])
        slant = pixel / np.maximum(facing, 0.08)
        # Ambient occlusion: less light arrives close to the ground.
        light *= 0.62 + 0.38 * np.clip(height / 0.7, 0, 1)
        for material in Material:
            at = slice(ends[material - 1] if material else 0, ends[material])
            if at.start == at.stop:
                continue
            owner = part[at]
            surface = Surface(
                u[at],
                v[at],
                self.projection.kinds.take(face[at]),
                pixel[at],
                slant[at],
                self.colors.take(owner, 1),
                self.accents.take(owner, 1),
                self.params.take(owner, 1),
                owner,
                scene.light.lamps,
            )
            albedo, glow = SHADERS[material](surface)
            light[:, at] *= albedo
            if glow is not None:
                light[:, at] += glow
        return light


def develop(color: np.ndarray, gain: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """Develop linear light into a photograph: exposure, a film-like curve, sensor noise.

    Args:
        color: float32 [H, W, 3].
        gain: float32 [3], exposure and white balance.
        grain: float32, broadcastable to [H, W, 3], in 8-bit steps.

    Returns:
        uint8 [H, W, 3].
    """
    value = color * gain
    value = np.sqrt(1 - np.exp(-1.15 * value))  # a square root is close enough to the sRGB curve
    return cv2.convertScaleAbs(np.maximum(value * 255 + grain, 0))
