"""The depth of a rendered scene."""

import numpy as np
import pytest

from mtlflax.data.streets.label_ids import ROAD
from mtlflax.data.streets.render import render
from mtlflax.data.streets.scene import draw


@pytest.mark.parametrize("index", range(4))
def test_depth_of_the_road_follows_from_the_camera_pose(index: int):
    """Depth of road pixels, computed from pitch, roll, and height alone with rotations written out here."""
    height, width = 128, 256
    scene = draw(0, "train", index)
    camera = scene.camera
    rendered = render(scene, (height, width))
    rows, cols = np.nonzero(rendered.label == ROAD)
    x = ((cols + 0.5) * 2048 / width - 0.5 - camera.rig.u0) / camera.rig.fx
    y = ((rows + 0.5) * 2048 / width - 0.5 - camera.rig.v0) / camera.rig.fy
    cos, sin = np.cos, np.sin
    # Undo the roll, then the pitch: how far a ray descends per unit of depth.
    level_y = cos(camera.roll) * y + sin(camera.roll) * x
    down = cos(camera.pitch) * level_y + sin(camera.pitch)
    expected = camera.position[1] / down
    near = expected < 60
    assert near.sum() > 2000
    np.testing.assert_allclose(1 / rendered.inverse[rows, cols][near], expected[near], rtol=2e-4)
