"""Finished frames: class statistics, disparity codes, void borders."""

import cv2
import numpy as np
import pytest

from mtlflax.data import labels
from mtlflax.data.streets import frame
from mtlflax.data.streets.camera import full_columns, full_rows
from mtlflax.data.streets.label_ids import (
    BUILDING,
    CAR,
    EGO_VEHICLE,
    OUT_OF_ROI,
    RECTIFICATION_BORDER,
    ROAD,
    SKY,
    VEGETATION,
)


@pytest.fixture(scope="module")
def frames() -> list[frame.RecordedFrame]:
    return [frame.make(0, "train", i, (64, 128)) for i in range(48)]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_another_size_shows_the_same_scene(index: int):
    small, large = (frame.make(0, "val", index, size) for size in ((128, 256), (384, 768)))
    # The middle one of three rows or columns has the same center.
    center = (slice(1, None, 3), slice(1, None, 3))
    assert np.mean(small.label == large.label[center]) > 0.995
    both = (small.codes > 1) & (large.codes[center] > 1)
    near = np.abs(small.codes[both] / 1.0 - large.codes[center][both]) <= 1
    assert near.mean() > 0.995
    image = cv2.resize(large.image, (256, 128), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(image - small.image).mean() < 8


def test_all_classes_occur_often_enough_to_be_learned(frames: list[frame.RecordedFrame]):
    shares = np.zeros(19)
    present = np.zeros(19)
    for made in frames:
        counts = np.bincount(labels.TRAIN_ID_LUT[made.label].ravel(), minlength=256)[:19]
        shares += counts
        present += counts > 0
    assert (present / len(frames) >= 0.15).all(), present
    shares /= shares.sum()
    names = dict(zip(labels.TRAIN_NAMES, shares, strict=True))
    assert 0.25 < names["road"] < 0.5
    big = [names[name] for name in ("road", "building", "vegetation", "sky", "car")]
    assert min(big) > 0.05
    assert sum(big) > 0.7


def test_color_alone_does_not_give_the_class_away(frames: list[frame.RecordedFrame]):
    """The best guess from the color of a pixel, learned on half of the frames, has a low mean recall on the rest."""
    half = len(frames) // 2

    def table(part: list[frame.RecordedFrame]) -> np.ndarray:
        counts = np.zeros((4096, 256))
        for made in part:
            bins = (made.image // 16).astype(int) @ [256, 16, 1]
            np.add.at(counts, (bins.ravel(), labels.TRAIN_ID_LUT[made.label].ravel()), 1)
        return counts[:, :19]

    seen, new = table(frames[:half]), table(frames[half:])
    guess = seen.argmax(1)
    recall = [new[guess == c, c].sum() / max(new[:, c].sum(), 1) for c in range(19)]
    assert np.mean(recall) < 0.35


def test_codes_are_distributed_as_in_cityscapes(frames: list[frame.RecordedFrame]):
    codes = np.stack([made.codes for made in frames])
    valid = codes[codes > 1]
    assert valid.min() >= 257
    assert valid.max() <= 32257
    label = np.stack([made.label for made in frames])
    sky = codes[label == SKY]
    assert set(np.unique(sky)) == {0, 1}
    assert 0.1 < np.mean(sky == 0) < 0.6
    assert 0.12 < np.mean(codes == 0) < 0.25
    assert 0.7 < np.mean(codes[label == EGO_VEHICLE] == 0) < 0.99


def test_invalid_borders_and_hidden_strips_follow_stereo_geometry():
    made = frame.make(0, "train", 7, (256, 512))
    x, y = full_columns(np.arange(512), 512), full_rows(np.arange(256), 256, 512)
    assert not made.codes[(y < 30) | (y >= 970)].any()
    assert not made.codes[:, (x < 10) | (x >= 2038)].any()
    disparity = np.maximum(made.codes.astype(float) - 1, 0) / 256
    valid = made.codes > 0
    right = x - disparity
    assert (right[valid] > -0.01).all()  # in view of the right camera
    # No measured pixel is hidden from the right camera by a point to its right.
    for row in range(0, 256, 16):
        at = np.flatnonzero(valid[row])
        if at.size:
            later = np.minimum.accumulate(right[row, at][::-1])[::-1]
            assert (right[row, at] <= later + 1.6).all()


def test_void_border_and_hood():
    made = frame.make(0, "train", 0, (256, 512))
    assert (made.label[0] == OUT_OF_ROI).all()
    assert (made.label[:, [0, -1]] == OUT_OF_ROI).all()
    assert (made.label == EGO_VEHICLE)[220:].any()
    assert {RECTIFICATION_BORDER, OUT_OF_ROI, EGO_VEHICLE} <= set(np.unique(made.label))
    assert (labels.TRAIN_ID_LUT[made.label[-1]] == 255).all()


def test_the_first_frames_are_pinned(frames: list[frame.RecordedFrame]):
    """Statistics of three frames, with tolerances for the last bits, which vary with NumPy and OpenCV."""
    colors = [made.image.mean((0, 1)) for made in frames[:3]]
    expected = [[134.75, 133.25, 129.06], [129.69, 130.18, 130.0], [148.45, 145.45, 146.43]]
    np.testing.assert_allclose(colors, expected, atol=0.1)
    ids = [ROAD, BUILDING, VEGETATION, SKY, CAR]
    counts = [np.bincount(made.label.ravel(), minlength=34)[ids] for made in frames[:3]]
    expected = [[3149, 1411, 668, 353, 1331], [3111, 638, 531, 1335, 304], [2341, 1938, 131, 412, 102]]
    np.testing.assert_allclose(counts, expected, atol=5)
    np.testing.assert_allclose([made.codes.mean() for made in frames[:3]], [10335.3, 6590.4, 8022.3], rtol=2e-3)
