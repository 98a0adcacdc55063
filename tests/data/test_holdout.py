"""The part of the training frames that is held out: fixed, disjoint, and a source like any other."""

import hashlib

import numpy as np
import pytest
from helpers.trees import write_tree
from ml_collections import ConfigDict

from mtlflax import data
from mtlflax.data import holdout
from mtlflax.data.cityscapes import Cityscapes
from mtlflax.data.source import Source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Cityscapes(write_tree(tmp_path_factory.mktemp("tree"), train=20, val=2, size=(16, 32)), "train")


def test_the_parts_make_the_whole_and_depend_on_names_alone(source):
    rest, held = holdout.split(source, 0.2)
    assert (len(rest), len(held)) == (16, 4)
    assert sorted([*rest.names, *held.names]) == sorted(source.names)
    lowest = sorted(source.names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:4]
    assert set(held.names) == set(lowest)
    assert list(rest.names) == [name for name in source.names if name in set(rest.names)]  # in the whole's order


def test_a_part_is_a_source(source):
    rest, held = holdout.split(source, 0.5)
    for part in (rest, held):
        assert isinstance(part, Source)
        assert part.fields == source.fields
        sample = part[3]
        assert sample["name"] == part.names[3]
        whole = source[list(source.names).index(part.names[3])]
        np.testing.assert_array_equal(sample["image"], whole["image"])
        part.prepare()
        assert part.missing == {}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.99, 1.0, -1.0])
def test_no_part_is_empty(source, share):
    with pytest.raises(ValueError, match=r"data\.holdout is .*leaves one part empty"):
        holdout.split(source, share)


def test_the_splits_of_a_run():
    config = ConfigDict({"name": "streets", "size": (16, 32), "depth": "metres", "classes": 19, "validation": "val"})
    config.streets = {"train": 10, "val": 3, "seed": 0}
    training, evaluated = data.open_splits(config)
    assert (len(training), {split: len(source) for split, source in evaluated.items()}) == (10, {"val": 3})
    config.validation, config.holdout = "holdout", 0.3
    training, evaluated = data.open_splits(config)
    assert len(training) == 7
    assert {split: len(source) for split, source in evaluated.items()} == {"holdout": 3, "val": 3}
    assert list(evaluated) == ["holdout", "val"]
