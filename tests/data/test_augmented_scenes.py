"""The geometry of a zoom, against the same scene rendered through a longer lens."""

import numpy as np
import pytest

from mtlflax.data import transforms, units
from mtlflax.data.labels import TRAIN_ID_LUT
from mtlflax.data.source import Depth, Image, Labels
from mtlflax.data.streets.camera import FULL_HEIGHT, FULL_WIDTH
from mtlflax.data.streets.render import develop, render
from mtlflax.data.streets.scene import draw

SIZE = (96, 192)


def seen(scene):
    """The picture, the labels, and 1 / depth of a scene."""
    rendered = render(scene, SIZE)
    grain = np.zeros((*SIZE, 3), np.float32)
    return develop(rendered.color, scene.light.gain, grain), TRAIN_ID_LUT[rendered.label], rendered.inverse


def through_a_longer_lens(scene, scale, corner):
    """The scene as a camera sees it whose picture is the window of this one's, enlarged."""
    rig = scene.camera.rig
    top, left = corner[0] * FULL_HEIGHT, corner[1] * FULL_WIDTH
    u0, v0 = scale * (rig.u0 + 0.5 - left) - 0.5, scale * (rig.v0 + 0.5 - top) - 0.5
    longer = rig._replace(fx=scale * rig.fx, fy=scale * rig.fy, u0=u0, v0=v0)
    return scene._replace(camera=scene.camera._replace(rig=longer))


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(("scale", "corner"), [(1.5, (0.2, 0.1)), (2.0, (0.25, 0.375))])
def test_a_zoom_is_a_longer_lens(number, scale, corner):
    """Metres are divided by the zoom, disparities and inverse metres multiplied."""
    scene = draw(0, "val", number)
    corner = np.array(corner)
    image, labels, inverse = seen(scene)
    longer = through_a_longer_lens(scene, scale, corner)
    expected_image, expected_labels, expected_inverse = seen(longer)

    zoomed = transforms.zoom(labels, Labels(()), scale, corner)
    inside = np.zeros(SIZE, bool)
    inside[2:-2, 2:-2] = True
    alike = (zoomed == expected_labels) & inside
    assert alike.sum() > 0.93 * inside.sum()  # all but the edges of things, where pixels are larger here
    found = transforms.zoom(image, Image(), scale, corner).astype(float)
    assert np.median(np.abs(found - expected_image)[alike]) < 8

    focal_baseline, of_lens = scene.camera.focal_baseline, longer.camera.focal_baseline
    assert of_lens == pytest.approx(scale * focal_baseline)
    there = inverse > 1 / 60
    everywhere = np.maximum(expected_inverse, 1e-3)
    for unit, values, expected in (
        # What the lens shows at depth Z lies, to one who takes its length for the old one, at Z / scale.
        ("metres", 1 / np.maximum(inverse, 1e-3), 1 / everywhere / scale),
        ("inverse_metres", inverse, everywhere * scale),
        ("disparity", inverse * focal_baseline, everywhere * of_lens),
    ):
        depth = transforms.zoom(values[..., None].astype(np.float32), Depth(units.get(unit)), scale, corner)[..., 0]
        near = alike & (transforms.zoom(there.astype(np.uint8), Labels(()), scale, corner) > 0)
        error = np.abs(depth / expected - 1)[near]
        assert np.median(error) < 0.01
        assert np.quantile(error, 0.9) < 0.08  # the ground between two rows, near the horizon
