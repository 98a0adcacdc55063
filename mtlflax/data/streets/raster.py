"""The rasterizer: which face is visible in each sample, by a z-buffer of inverse depths."""

from typing import NamedTuple

import numpy as np

from mtlflax.data.streets.materials import gaps
from mtlflax.data.streets.noise import NOISE_SIZE, noise, window
from mtlflax.data.streets.projection import Projection
from mtlflax.data.streets.scene import Scene, column
from mtlflax.data.streets.shapes import ELLIPSOID, MAX_PLANES
from mtlflax.data.streets.street import CURB_HEIGHT
from mtlflax.data.streets.surface import SEE_THROUGH, Material

ROAD, RAISED, CURB, SKY = range(4)  # faces, numbered after those of the parts
LEAF_TEXEL = 0.055  # meters
LEAF_DEPTH = 0.22


class Buffers(NamedTuple):
    """Two z-buffers: what the image shows, and what the ground truth says.

    They differ in the gaps of fences and between spokes: the image shows what is behind, but label and depth are those
    of the fence, as a human annotator would draw it.

    Attributes:
        inverse: float32 [h, w], 1 / Z in the image; 0 = sky.
        face: int32 [h, w], index of the face in the image; F + ROAD, RAISED, CURB, or SKY where there is no part.
        true_inverse: float32 [h, w], like `inverse`, for the ground truth.
        true_face: int32 [h, w], like `face`, for the ground truth.
    """

    inverse: np.ndarray
    face: np.ndarray
    true_inverse: np.ndarray
    true_face: np.ndarray


def _ground(scene: Scene, x: np.ndarray, y: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inverse depth and face of the ground: the road, and beyond the curbs a plane 12 cm higher."""
    camera, street = scene.camera, scene.street
    rotation = camera.rotation
    inverse = np.zeros((len(y), len(x)), np.float32)
    face = np.full(inverse.shape, first + SKY, np.int32)
    down = -(rotation[1, 1] * y + rotation[2, 1])[:, None] - (rotation[0, 1] * x)[None, [0, -1]]
    start = int(np.argmax(down.max(1) > 0)) if down[-1].max() > 0 else len(y)
    y = y[start:]
    if not len(y):
        return inverse, face

    def plane(axis: int, scale: float) -> np.ndarray:
        """Return a world coordinate of the rays, times `scale`."""
        row = (rotation[0, axis] * scale * x).astype(np.float32)
        col = ((rotation[1, axis] * y + rotation[2, axis]) * scale).astype(np.float32)
        return col[:, None] + row[None]

    tiny = np.float32(1e-5)
    height = float(camera.position[1])
    road = np.maximum(plane(1, -1 / height), 0)
    raised = road * np.float32(height / (height - CURB_HEIGHT))
    right, ahead = plane(0, 1.0), plane(2, 1.0)
    left, curb = street.sides[0].curb, street.sides[1].curb
    shift, half = np.float32((curb - left) / 2), np.float32((curb + left) / 2)

    def inside(inverse: np.ndarray) -> np.ndarray:
        """Return the distance of the points on the rays from the curbs, positive between them."""
        depth = 1 / np.maximum(inverse, tiny)
        lateral = depth * right + np.float32(camera.position[0]) - shift
        if street.curve:
            along = depth * ahead
            lateral -= np.float32(street.curve / 2) * along * along
        return half - np.abs(lateral)

    above, below = inside(raised), inside(road)
    on_top = above < 0
    curb_face = ~on_top & (below < 0)
    if street.crossing[0] < 1e3:
        along = ahead / np.maximum(raised, tiny)
        straight = (along < street.crossing[0]) | (along > street.crossing[1])
        on_top &= straight
        curb_face &= straight
    at = np.flatnonzero(curb_face & (road > tiny))
    # Along the face of the curb, the distance from it varies linearly with depth.
    low, high, out, back = (a.reshape(-1)[at] for a in (road, raised, above, below))
    share = out / np.maximum(out - back, tiny)
    inverse[start:] = np.where(on_top, raised, road)
    inverse[start:].reshape(-1)[at] = 1 / (1 / high + share * (1 / low - 1 / high))
    face[start:] = first + np.where(on_top, np.int32(RAISED), np.int32(ROAD))
    face[start:].reshape(-1)[at] = first + CURB
    np.copyto(face, first + SKY, where=inverse <= 0)
    return inverse, face


def _solid(
    projection: Projection, part: int, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the inverse depths of the entry planes [n, h, w], of the entry, and of the exit of a solid [h, w]."""
    coefficients = projection.coefficients[part, : projection.used[part]]
    rows = (coefficients[:, 1:2] * y + coefficients[:, 2:]).astype(np.float32)
    cols = (coefficients[:, :1] * x).astype(np.float32)
    planes = rows[:, :, None] + cols[:, None]
    entered = planes[: projection.entered[part]]
    return entered, entered.min(0), planes[len(entered) :].max(0, initial=0)


def _show(
    projection: Projection,
    part: int,
    entered: np.ndarray,
    near: np.ndarray,
    hit: np.ndarray,
    inverse: np.ndarray,
    face: np.ndarray,
) -> None:
    """Write a solid into a block of the z-buffer where it is hit."""
    np.copyto(inverse, near, where=hit)
    for plane, number in zip(entered, projection.planes[part].tolist(), strict=False):
        np.copyto(face, part * MAX_PLANES + number, where=hit & (plane == near))


def _ellipsoid(
    projection: Projection, part: int, x: np.ndarray, y: np.ndarray, leaves: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return inverse depth and hit mask of an ellipsoid, with an outline roughened by the noise in `leaves`, if any."""
    quadric, forward, slope = projection.quadrics[part], projection.forward[part], projection.slopes[part]
    dx, dy = x - projection.centers[part, 0], y - projection.centers[part, 1]
    row = ((slope[0] + quadric[0, 0] * dx) * dx).astype(np.float32)
    col = (slope[2] + (slope[1] + quadric[1, 1] * dy) * dy).astype(np.float32)
    cross = (2 * quadric[0, 1] * dx).astype(np.float32)
    root = col[:, None] + row[None] + cross[None] * dy.astype(np.float32)[:, None]
    hit = root > 0 if leaves is None else root + np.float32(LEAF_DEPTH * projection.heights[part]) * leaves > 0
    root = np.sqrt(np.maximum(root, 0, out=root), out=root)
    row = (forward[0] * x).astype(np.float32)
    col = (forward[1] * y + forward[2]).astype(np.float32)
    root += row[None]
    root += col[:, None]
    root *= np.float32(1 / projection.closeness[part])
    return root, hit & (root > 0)


def _leaves(
    projection: Projection, part: int, places: np.ndarray, x: np.ndarray, y: np.ndarray, depth: float
) -> np.ndarray:
    """Return noise that is fixed to a clump of leaves, for a block of the image: float32 [h, w]."""
    step_x = (x[-1] - x[0]) / max(len(x) - 1, 1) * depth / LEAF_TEXEL
    step_y = (y[-1] - y[0]) / max(len(y) - 1, 1) * depth / LEAF_TEXEL
    low = projection.bounds[part]
    start_x = ((x[0] - low[0]) * depth / LEAF_TEXEL + places[0]) % NOISE_SIZE
    start_y = ((y[0] - low[1]) * depth / LEAF_TEXEL + places[1]) % NOISE_SIZE
    return window(noise(0.6), (start_x, start_y), (step_x, step_y), (len(x), len(y)))


def rasterize(scene: Scene, projection: Projection, x: np.ndarray, y: np.ndarray) -> Buffers:
    """Find the visible face in each sample of a block of the image.

    Args:
        scene: the scene.
        projection: the projection of its parts.
        x: float64 [w], columns of the samples in the plane Z = 1, ascending.
        y: float64 [h], rows of the samples, ascending.
    """
    parts = scene.parts
    shapes, materials = column(parts, "shape").astype(int), column(parts, "material").astype(int)
    params = column(parts, "p0", "p1", "p2", "p3")
    left, right = (np.searchsorted(x, projection.bounds[:, i]) for i in (0, 2))
    top, bottom = (np.searchsorted(y, projection.bounds[:, i]) for i in (1, 3))
    inverse, face = _ground(scene, x, y, len(parts) * MAX_PLANES)
    see_through = np.isin(materials, SEE_THROUGH)
    visible = (left < right) & (top < bottom)
    away = column(parts, "x", "y", "z") - scene.camera.position
    distance = away @ scene.camera.rotation[2]
    order = np.argsort(-projection.nearest)
    opaque = order[(visible & ~see_through)[order]]
    for part in opaque.tolist():
        rows, cols = slice(top[part], bottom[part]), slice(left[part], right[part])
        block, front = inverse[rows, cols], face[rows, cols]
        # The order is from near to far, so many parts are hidden entirely.
        if block.min() > projection.nearest[part]:
            continue
        xs, ys = x[cols], y[rows]
        if shapes[part] == ELLIPSOID:
            leaves = None
            if materials[part] == Material.LEAVES:
                leaves = _leaves(projection, part, params[part], xs, ys, distance[part])
            near, hit = _ellipsoid(projection, part, xs, ys, leaves)
            hit &= near > block
            np.copyto(block, near, where=hit)
            np.copyto(front, part * MAX_PLANES, where=hit)
        else:
            entered, near, left_at = _solid(projection, part, xs, ys)
            hit = near > np.maximum(left_at, block)
            _show(projection, part, entered, near, hit, block, front)
    lattice = np.flatnonzero(visible & see_through)
    if not lattice.size:
        return Buffers(inverse, face, inverse, face)
    buffers = Buffers(inverse, face, inverse.copy(), face.copy())
    for part in lattice.tolist():
        rows, cols = slice(top[part], bottom[part]), slice(left[part], right[part])
        xs, ys = x[cols], y[rows]
        entered, near, left_at = _solid(projection, part, xs, ys)
        block = buffers.true_inverse[rows, cols]
        hit = near > np.maximum(left_at, block)
        _show(projection, part, entered, near, hit, block, buffers.true_face[rows, cols])
        block, front = buffers.inverse[rows, cols], buffers.face[rows, cols]
        hit = near > np.maximum(left_at, block)
        at = np.nonzero(hit)
        face = part * MAX_PLANES + projection.planes[part][entered[:, at[0], at[1]].argmin(0)]
        ray_x, ray_y = xs.astype(np.float32)[at[1]], ys.astype(np.float32)[at[0]]
        u, v = projection.texture_coordinates(face, 1 / near[at], ray_x, ray_y)
        hit[at] = ~gaps(Material(materials[part]), u, v, params[part])
        _show(projection, part, entered, near, hit, block, front)
    return buffers
