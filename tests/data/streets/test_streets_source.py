"""The embedded data set as a source: samples, reproducibility, options."""

import pickle

import numpy as np
import pytest
from helpers.samples import same

from mtlflax.data import labels
from mtlflax.data.streets import LENGTHS, Streets
from mtlflax.errors import UserError

SIZE = (96, 192)


def test_samples_have_the_documented_types():
    source = Streets("val", size=SIZE)
    assert (len(source), len(Streets("train", size=SIZE))) == (500, 2975)
    assert LENGTHS["test"] == 1525
    sample = source[3]
    assert sample["image"].shape == (*SIZE, 3)
    assert sample["image"].dtype == np.uint8
    assert sample["segmentation"].shape == SIZE
    assert sample["segmentation"].dtype == np.uint8
    assert set(np.unique(sample["segmentation"])) <= {*range(19), 255}
    assert sample["depth"].shape == (*SIZE, 1)
    assert sample["depth"].dtype == np.float32
    assert sample["focal_baseline"].dtype == np.float32
    assert 470 < sample["focal_baseline"] < 510
    assert sample["name"] == "streets-val_000003_000019"
    assert same(source[-497], sample)
    for index in (500, -501):
        with pytest.raises(IndexError):
            source[index]


def test_samples_depend_on_seed_split_and_index_only():
    source = Streets("train", size=SIZE)
    first = source[5]
    source[2]
    assert same(source[5], first)
    assert same(pickle.loads(pickle.dumps(source))[5], first)
    others = [Streets("val", size=SIZE)[5], Streets("train", size=SIZE, seed=1)[5], source[6]]
    for other in others:
        assert np.mean(other["segmentation"] != first["segmentation"]) > 0.05


def test_the_seven_classes_group_the_nineteen():
    fine, coarse = (Streets("val", size=SIZE, classes=n)[1]["segmentation"] for n in (19, 7))
    scored = fine != 255
    assert np.array_equal(labels.TRAIN_TO_CATEGORY[fine[scored]], coarse[scored])


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (40, 200), (8, 8)])
def test_any_size_works(size: tuple[int, int]):
    sample = Streets("train", size=size)[0]
    assert sample["image"].shape == (*size, 3)
    assert np.isfinite(sample["depth"]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "dev"}, ValueError, "train, val, test"),
        ({"depth": "feet"}, ValueError, "feet"),
        ({"classes": 8}, ValueError, "19"),
        ({"size": (0, 64)}, UserError, "data.size"),
        ({"size": 64}, UserError, "data.size"),
        ({"size": (64.5, 32)}, UserError, "data.size"),
        ({"seed": -1}, UserError, "data.seed"),
        ({"length": 0}, UserError, "data.length"),
    ],
)
def test_invalid_options_are_named(arguments: dict, error: type[Exception], message: str):
    options = {"split": "val", "size": (32, 64)} | arguments
    with pytest.raises(error, match=message):
        Streets(options.pop("split"), **options)
