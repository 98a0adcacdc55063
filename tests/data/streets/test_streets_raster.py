"""The rasterizer against a ray marcher, and against itself in blocks."""

import numpy as np
import pytest

from mtlflax.data.streets.projection import project
from mtlflax.data.streets.random_stream import RandomStream
from mtlflax.data.streets.raster import rasterize
from mtlflax.data.streets.scene import COLUMN, draw
from mtlflax.data.streets.shapes import SHAPES
from mtlflax.data.streets.stage import Pose, Stage
from mtlflax.data.streets.surface import Material


def _alone(shape: str, size: tuple[float, float, float], *, yaw: float = 0.3, tilt: float = 0.0):
    """Return a scene with a single solid in front of the camera."""
    scene = draw(0, "train", 0)
    stage = Stage(RandomStream(1))
    stage.put(Pose(0.8, 0.3, 9.0, yaw, 26), shape, (0, 0, 0), size, (0.5, 0.5, 0.5), tilt=tilt)
    return scene._replace(parts=np.array(stage.parts))


def test_large_frames_rendered_in_blocks_have_no_seams():
    scene = draw(0, "train", 4)
    x = np.linspace(-0.5, 0.45, 301)
    y = np.linspace(-0.2, 0.2, 121)
    projection = project(scene.parts, scene.camera)
    whole = rasterize(scene, projection, x, y)
    for rows in (slice(0, 50), slice(50, 121)):
        block = rasterize(scene, projection, x, y[rows])
        same = block.true_face == whole.true_face[rows]
        assert same.mean() > 0.998  # leaf noise is sampled at 1/32 texel from the corner of each block
        near, far = block.inverse[same], whole.inverse[rows][same]
        assert np.mean(np.abs(near - far) < 1e-3 * far + 1e-5) > 0.999


@pytest.mark.parametrize("shape", ["box", "hull", "cabin", "wheel", "disc", "gable", "ellipsoid"])
def test_solids_are_where_a_ray_marcher_finds_them(shape: str):
    """Depth and outline agree with a search along each ray in steps of 1 cm, in float64."""
    size, yaw, tilt = (1.6, 1.4, 3.0), 0.3, 0.2
    scene = _alone(shape, size, yaw=yaw, tilt=tilt)
    x, y = np.linspace(-0.15, 0.4, 45), np.linspace(-0.1, 0.15, 31)
    buffers = rasterize(scene, project(scene.parts, scene.camera), x, y)
    z = np.arange(5.0, 13.0, 0.01)
    ray = np.stack(np.broadcast_arrays(x[None], y[:, None], np.ones((31, 45))), -1)
    world = scene.camera.position + (ray @ scene.camera.rotation)[..., None, :] * z[:, None]
    away = world - (0.8, 0.3 + size[1] / 2, 9.0)
    side = np.cos(yaw) * away[..., 0] - np.sin(yaw) * away[..., 2]
    ahead = np.sin(yaw) * away[..., 0] + np.cos(yaw) * away[..., 2]
    up = np.cos(tilt) * away[..., 1] + np.sin(tilt) * ahead
    ahead = np.cos(tilt) * ahead - np.sin(tilt) * away[..., 1]
    local = np.stack([side, up, ahead], -1) / (np.array(size) / 2)
    if shape == "ellipsoid":
        inside = (local**2).sum(-1) <= 1
    else:
        inside = (local @ SHAPES[shape].normals.T <= SHAPES[shape].offsets).all(-1)
    inside &= world[..., 1] > 0.02  # hidden below the road
    expected = np.where(inside.any(-1), z[inside.argmax(-1)], np.inf)
    hit = buffers.face < 14
    assert inside.any(-1).sum() > 50
    assert np.mean(hit == inside.any(-1)) > 0.97
    both = hit & inside.any(-1)
    np.testing.assert_allclose(1 / buffers.inverse[both], expected[both], atol=0.03)


def test_gaps_of_fences_show_the_background_but_are_labeled_fence():
    scene = _alone("box", (6.0, 1.5, 0.1))
    fence = scene.parts.copy()
    fence[0, COLUMN["material"]] = Material.FENCE
    fence[0, [COLUMN[f"p{i}"] for i in range(4)]] = (0.3, 0, 1.5, 0)
    scene = scene._replace(parts=fence)
    x, y = np.linspace(-0.1, 0.3, 200), np.linspace(-0.1, 0.1, 90)
    buffers = rasterize(scene, project(scene.parts, scene.camera), x, y)
    counted, shown = buffers.true_face < 14, buffers.face < 14
    assert not (shown & ~counted).any()
    assert 0.05 < shown.sum() / counted.sum() < 0.6
    assert (buffers.true_inverse[counted] >= buffers.inverse[counted]).all()
