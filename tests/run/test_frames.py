"""What was counted in each frame: read as it was written, added up, and refused where it is damaged."""

import re

import numpy as np
import pytest

from mtlflax.errors import UserError
from mtlflax.run import frames
from mtlflax.run.frames import Frames


@pytest.fixture
def counted():
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 100, (5, 3, 3))
    errors = {"error/sum": rng.normal(size=5), "error/pixels": rng.integers(0, 9, 5)}
    return Frames(tuple(f"ü_{i}" for i in range(5)), {"segmentation": {"confusion": confusion}, "normals": errors})


def test_they_are_read_as_they_were_written(counted, tmp_path):
    frames.write(tmp_path / "new" / "a.npz", counted)
    again = frames.read(tmp_path / "new" / "a.npz")
    assert again.names == counted.names
    assert again.sums.keys() == counted.sums.keys()
    for task, sums in counted.sums.items():
        assert again.sums[task].keys() == sums.keys()
        for key, x in sums.items():
            np.testing.assert_array_equal(again.sums[task][key], x)
            assert again.sums[task][key].dtype == x.dtype


def test_totals_are_sums_over_frames_as_often_as_they_are_drawn(counted):
    total = counted.total()
    np.testing.assert_array_equal(total["segmentation"]["confusion"], counted.sums["segmentation"]["confusion"].sum(0))
    assert total["normals"]["error/sum"] == pytest.approx(counted.sums["normals"]["error/sum"].sum())
    drawn = [4, 0, 0, 4, 2]
    twice = counted.total(np.bincount(drawn, minlength=5))
    for task, sums in counted.sums.items():
        for key, x in sums.items():
            np.testing.assert_allclose(twice[task][key], x[drawn].sum(axis=0), rtol=1e-12)
    assert twice["segmentation"]["confusion"].dtype == np.int64


def test_what_is_missing_or_damaged_is_named(counted, tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(UserError, match=re.escape(f"{path}: cannot be read (")):
        frames.read(path)
    frames.write(path, counted)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=re.escape(f"{path}: cannot be read (")):
        frames.read(path)
    frames.write(path, counted._replace(names=counted.names[:4]))
    with pytest.raises(UserError, match="5 rows for 4 frames"):
        frames.read(path)
