"""Units of depth, against float64 and against the formulas of before there were declared units."""

import jax.numpy as jnp
import numpy as np
import pytest

from mtlflax.data import units
from mtlflax.data.units import Unit

FOCAL_BASELINE = 473.575
FIRST = np.float32(1) / np.float32(65535)  # code 1, infinitely far, as a normalised disparity


def values(unit):
    """All of Cityscapes' codes in a unit, 0 and 1 among them."""
    return units.codes_to_unit(np.arange(65536, dtype=np.uint16), FOCAL_BASELINE, unit)


@pytest.mark.parametrize("scale", [1.0, 1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("unit", units.UNITS)
def test_zoom_is_the_formula_to_the_bit(unit, scale):
    depth, s = values(unit), np.float32(scale)
    if unit in ("metres", "millimetres"):
        expected = depth / s
    elif unit == "normalised_disparity":
        expected = np.where(depth > FIRST, s * depth + (1 - s) * FIRST, depth)
    else:
        expected = depth * s
    found = units.get(unit).zoom(depth, scale)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    if unit == "normalised_disparity":
        assert found[1] == FIRST


def test_zoom_of_whole_millimetres():
    depth = np.array([0, 1, 3, 1000, 1001, 65535], np.uint16)
    found = units.get("millimetres").zoom(depth, 1.5)
    assert found.dtype == np.uint16
    assert found.tolist() == [0, 1, 2, 667, 667, 43690]
    # The least distance stays a measurement, and the largest disparity one that fits.
    assert units.get("millimetres").zoom(depth, 4.0).tolist() == [0, 1, 1, 250, 250, 16384]
    assert units.get("disparity").zoom(depth, 2.0).tolist() == [0, 2, 6, 2000, 2002, 65535]
    np.testing.assert_array_equal(units.get("millimetres").zoom(depth, 1.0), depth)


def in_metres(unit, value):
    if unit in ("metres", "millimetres"):
        return value / (1000 if unit == "millimetres" else 1)
    if unit == "inverse_metres":
        return 1 / value
    disparity = (65535 * value - 1) / 256 if unit == "normalised_disparity" else value
    return FOCAL_BASELINE / disparity


@pytest.mark.parametrize("to_array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("unit", units.UNITS)
def test_metres(unit, to_array):
    given = values(unit)
    found = units.get(unit).to_metres(to_array(given), np.float32(FOCAL_BASELINE))
    assert type(found) is type(to_array(given))
    assert found.dtype == np.float32
    finite = np.arange(65536) > 1
    # Of p − 1 with a small p, float32 keeps fewer digits.
    tolerance = np.where(np.arange(65536) < 257, 5e-5, 2e-6)[finite]
    expected = in_metres(unit, given[finite].astype(np.float64))
    assert np.max(np.abs(np.asarray(found)[finite] / expected - 1) / tolerance) <= 1
    if unit not in ("metres", "millimetres"):
        assert np.isinf(np.asarray(found)[:2]).all()
        assert np.isinf(units.get(unit).to_metres(to_array(np.array([-0.5], np.float32)), np.float32(1)))


def test_whole_millimetres_are_metres_too():
    depth = np.array([0, 1, 1500, 65535], np.uint16)
    found = units.get("millimetres").to_metres(depth)
    np.testing.assert_allclose(found, [0, 0.001, 1.5, 65.535], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "positive scale"),
        ({"scale": float("inf")}, "positive scale"),
        ({"stereo": True, "typical": 1.0, "near": 1.0}, "only with `inverse`"),
        ({"inverse": True, "stereo": True}, "needs `typical` and `near`"),
    ],
)
def test_a_unit_that_means_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Unit("mine", **options)


def test_what_is_common_follows_from_the_scale():
    tum = Unit("tum", scale=1 / 5000)
    assert tum.typical == pytest.approx(25 * 5000)
    assert tum.near == pytest.approx(5 * 5000)
    assert units.get("inverse_metres").typical == pytest.approx(0.1)
    assert units.get("inverse_metres").near == pytest.approx(0.2)


def test_an_unknown_unit_is_named():
    with pytest.raises(ValueError, match="'feet': choose from normalised_disparity, disparity"):
        units.get("feet")
