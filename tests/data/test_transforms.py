"""Augmentation: its geometry in float64, its colors against PIL's."""

import pickle

import numpy as np
import pytest
from helpers.batches import FIELDS, make_fields
from PIL import Image, ImageEnhance

from mtlflax.data import transforms, units
from mtlflax.data.transforms import Augment
from mtlflax.errors import UserError

H, W = 48, 96
FOCAL_BASELINE = 473.575
METRES = make_fields("metres")


def codes(seed=0):
    rng = np.random.default_rng(seed)
    result = rng.integers(257, 32258, (H, W)).astype(np.uint16)
    result[rng.random((H, W)) < 0.2] = 0
    result[rng.random((H, W)) < 0.1] = 1
    return result


def sample(unit="normalised_disparity", seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (H, W, 3), np.uint8),
        "segmentation": rng.integers(0, 19, (H, W), np.uint8),
        "depth": units.codes_to_unit(codes(seed), FOCAL_BASELINE, unit)[..., None],
        "focal_baseline": np.float32(FOCAL_BASELINE),
        "name": "frame",
    }


@pytest.mark.parametrize("unit", units.UNITS)
def test_depth_of_a_nearer_scene(unit):
    for scale in (1.2, 1.5, 2.0):
        depth = sample(unit)["depth"]
        nearer = units.get(unit).zoom(depth, scale)
        assert nearer.dtype == np.float32
        np.testing.assert_array_equal(nearer == 0, depth == 0)
        code = codes().astype(np.float64)
        measured = code > 1
        metres = FOCAL_BASELINE * 256 / (code[measured] - 1)
        found = units.get(unit).to_metres(nearer[..., 0], np.float32(FOCAL_BASELINE))
        np.testing.assert_allclose(found[measured], metres / scale, rtol=2e-6)
        if unit == "normalised_disparity":  # infinitely far stays so, to the bit
            assert (nearer[..., 0][code == 1] == np.float32(1) / np.float32(65535)).all()


@pytest.mark.parametrize("scale", [1.2, 1.5, 3.0])
def test_zoom_takes_all_from_the_same_place(scale):
    # The values are the place they come from: in the image twice the column and row.
    rows, columns = np.mgrid[:H, :W]
    full = {
        "image": np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8),
        "segmentation": columns.astype(np.uint8),
        "depth": (1.0 + rows[..., None]).astype(np.float32),
    }
    for corner in np.array([(0, 0), (1, 1), (0.31, 0.77)]) * (1 - 1 / scale):
        result = {key: transforms.zoom(full[key], METRES[key], scale, corner) for key in full}
        y = (np.arange(H) + 0.5) / scale + corner[0] * H - 0.5
        x = (np.arange(W) + 0.5) / scale + corner[1] * W - 0.5
        inside = np.ix_((y >= 0) & (y <= H - 1), (x >= 0) & (x <= W - 1))
        yy, xx = np.meshgrid(y, x, indexing="ij")
        image = result["image"] / 2.0
        # Rounding to 8 bits, and warpAffine's 1/32 of a pixel.
        assert np.abs(image[..., 0] - xx)[inside].max() <= 0.25 + 0.04
        assert np.abs(image[..., 1] - yy)[inside].max() <= 0.25 + 0.04
        assert np.abs(result["segmentation"] - xx).max() <= 0.5 + 1e-6
        assert np.abs(result["depth"][..., 0] * scale - 1 - yy).max() <= 0.5 + 1e-5


def test_mirror():
    before = sample()
    for key in ("image", "segmentation", "depth"):
        np.testing.assert_array_equal(transforms.mirror(before[key], FIELDS[key]), np.flip(before[key], 1))
    after = Augment(fields=FIELDS, scales=(1.0,), flip=1)(before, np.random.default_rng(0))
    assert after["focal_baseline"] == before["focal_baseline"]


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_colors_are_those_of_pil(factor):
    image = sample()["image"]
    picture = Image.fromarray(image)
    ones = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    for name, enhance in {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }.items():
        expected = np.asarray(enhance(picture).enhance(factor)).astype(int)
        found = transforms.recolor(image, **(ones | {name: factor})).astype(int)
        # PIL truncates, and rounds the gray that it mixes with.
        assert np.abs(found - expected).max() <= (0 if factor == 1 else 1), name


def test_hue():
    image = (64 + sample()["image"] // 4).astype(np.uint8)  # room for colors to turn in
    luma = np.array([0.299, 0.587, 0.114])
    gray = np.repeat(image[..., :1], 3, -1)
    for turn in (-0.3, 0.05, 0.5):
        turned = transforms.recolor(image, 1, 1, 1, turn)
        assert np.abs((turned - image.astype(float)) @ luma).max() <= 0.8  # OpenCV's weights have 10 bits
        assert np.abs(turned.astype(int) - image).mean() > 1
        np.testing.assert_array_equal(transforms.recolor(gray, 1, 1, 1, turn), gray)
        back = transforms.recolor(turned, 1, 1, 1, -turn)
        assert np.abs(back.astype(int) - image).max() <= 2
    red = np.full((1, 1, 3), (150, 90, 90), np.uint8)
    turned = transforms.recolor(red, 1, 1, 1, 0.05)[0, 0].astype(int)
    assert turned[1] > turned[2]  # towards yellow, as in HSV


def test_augmenting_is_determined_by_the_generator():
    augment = Augment(fields=FIELDS)
    before = sample()
    kept = {key: np.copy(value) for key, value in before.items()}
    copy = pickle.loads(pickle.dumps(augment))
    seen = set()
    for seed in range(20):
        one, two = (f(before, np.random.default_rng(seed)) for f in (augment, copy))
        assert one.keys() == before.keys()
        for key in ("image", "segmentation", "depth"):
            np.testing.assert_array_equal(one[key], two[key])
            assert one[key].shape == before[key].shape
            assert one[key].dtype == before[key].dtype
        seen.add(one["image"].tobytes())
    assert len(seen) == 20
    for key, value in kept.items():
        np.testing.assert_array_equal(before[key], value)


def test_every_choice_occurs_and_drawing_is_independent_of_the_options():
    before = sample("metres")
    valid = before["depth"] > 0
    before["depth"] = np.where(valid, np.float32(12), 0)  # tells the zoom
    before["segmentation"][:] = np.arange(W) * 200 // W  # tells the mirroring
    plain = Augment(fields=METRES, brightness=0, contrast=0, saturation=0, hue=0)
    colorful = Augment(fields=METRES)
    found = []
    for seed in range(300):
        after = plain(before, np.random.default_rng(seed))
        found.append((round(12 / float(after["depth"].max()), 3), after["segmentation"][0, 0] > 90))
        if seed < 20:
            other = colorful(before, np.random.default_rng(seed))
            np.testing.assert_array_equal(other["segmentation"], after["segmentation"])
    counts = {pair: found.count(pair) for pair in found}
    assert {scale for scale, _ in counts} == {1.0, 1.2, 1.5}
    assert len(counts) == 6
    assert min(counts.values()) > 25


def test_nothing_chosen_changes_nothing():
    nothing = Augment(fields=FIELDS, scales=(1.0,), flip=0, brightness=0, contrast=0, saturation=0, hue=0)
    before = sample()
    after = nothing(before, np.random.default_rng(0))
    for key in before:
        np.testing.assert_array_equal(after[key], before[key])


@pytest.mark.parametrize("unit", ["normalised_disparity", "disparity"])
def test_zooming_keeps_the_road_where_the_camera_sees_it(unit):
    # A level road 1.2 m below the camera: Z = f · 1.2 / (rows below the horizon). Zooming about the
    # principal point keeps heights and widths and divides Z, so it is the same road again.
    focal, baseline, height = 300.0, 0.2, 1.2
    below = (np.arange(H) + 0.5 - H / 2)[:, None] * np.ones(W)
    disparity = np.where(below > 0, below * baseline / height, 0)
    values = disparity if unit == "disparity" else (256 * disparity + 1) / 65535
    full = {**sample(), "depth": values[..., None].astype(np.float32)}
    for scale in (1.2, 1.5):
        corner = np.full(2, (1 - 1 / scale) / 2)
        zoomed = transforms.zoom(full["depth"], make_fields(unit)["depth"], scale, corner)[..., 0]
        metres = units.get(unit).to_metres(zoomed, np.float32(focal * baseline))
        # Depth is taken from the nearest pixel, so a row is off by scale / 2 at most.
        row = focal * height / metres[below > scale]
        assert np.abs(row - below[below > scale]).max() <= scale / 2 + 1e-3


@pytest.mark.parametrize(
    "options",
    [{"scales": ()}, {"scales": (0.9, 1.0)}, {"flip": 1.5}, {"hue": 0.6}, {"contrast": -0.1}],
)
def test_values_out_of_range_are_named(options):
    (name,) = options
    with pytest.raises(UserError, match=f"augment.{name}"):
        Augment(fields=FIELDS, **options)
