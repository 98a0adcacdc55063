"""Ground truth at its own size beside images at the size of training."""

import cv2
import numpy as np
import pytest
from helpers.trees import write_tree

from mtlflax.data import holdout, loader
from mtlflax.data.cityscapes import Cityscapes
from mtlflax.data.full_truth import truth_size, with_full_truth
from mtlflax.data.source import Number
from mtlflax.data.streets import Streets
from mtlflax.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("tree"), train=5, val=1, size=(32, 64))


@pytest.fixture(scope="module")
def source(tree):
    return Cityscapes(tree, "train", size=(8, 16), depth="disparity")


def test_the_truth_is_as_stored_and_the_image_as_before(tree, source):
    stored, full = Cityscapes(tree, "train", depth="disparity"), with_full_truth(source)
    for i in range(len(full)):
        np.testing.assert_array_equal(full[i]["image"], source[i]["image"])
        for name in ("segmentation", "depth"):
            np.testing.assert_array_equal(full[i][name], stored[i][name])
        assert source[i]["segmentation"].shape == (8, 16)
    assert truth_size(full, full.fields) == (32, 64)
    with pytest.raises(ValueError, match="a value at each pixel in any field"):
        truth_size(full, {"focal_baseline": Number()})


def test_a_part_has_it_if_the_whole_has(source):
    rest, held = holdout.split(source, 0.4)
    for part in (rest, held):
        full = with_full_truth(part)
        assert full.names == part.names
        assert full[1]["name"] == part[1]["name"]
        assert full[1]["segmentation"].shape == (32, 64)
    streets = Streets("train", size=(8, 16), length=4)
    assert with_full_truth(streets) is None
    assert with_full_truth(holdout.split(streets, 0.5)[0]) is None


def test_batches_hold_both_sizes_and_padding_too(source):
    full = with_full_truth(source)
    with loader.evaluation_batches(full, full.fields, batch_size=3, num_threads=0, truth_size=(32, 64)) as batches:
        first, last = batches
    assert (first["image"].shape, first["depth"].shape) == ((3, 8, 16, 3), (3, 32, 64, 1))
    assert last["mask"].tolist() == [1, 1, 0]
    assert (last["segmentation"][2] == 255).all()
    assert not last["depth"][2].any()


def test_a_frame_of_another_size_is_named(tmp_path):
    tree = write_tree(tmp_path / "tree", train=2, val=1, size=(32, 64))
    for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds"), ("disparity", "disparity")):
        path = tree / kind / "train" / "aachen" / f"aachen_000001_000019_{ending}.png"
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:30])
    full = with_full_truth(Cityscapes(tree, "train", size=(8, 16)))
    with (
        pytest.raises(UserError, match=r"'aachen_000001_000019': segmentation is uint8 \[30, 64\], but .* \[32, 64\]"),
        loader.evaluation_batches(full, full.fields, batch_size=1, num_threads=0, truth_size=(32, 64)) as batches,
    ):
        list(batches)
