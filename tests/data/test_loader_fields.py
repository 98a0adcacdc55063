"""Batches by the kinds of fields: what is unknown is filled as the field declares."""

import numpy as np
from helpers.batches import FIELDS

from mtlflax.data import units
from mtlflax.data.loader import evaluation_batches, train_batches
from mtlflax.data.source import Depth, Image, Labels, Map, Number
from mtlflax.data.transforms import Augment

OWN = {
    "image": Image(),
    "depth": Depth(units.get("millimetres"), dtype="uint16"),
    "normals": Map(3, unknown=-2.0, mirror=(-1, 1, 1)),
    "instances": Labels(dtype="uint16", ignore=9),
    "exposure": Number(),
}


def own(**changes):
    """A sample of the image and `changes` alone."""
    return {"image": np.ones((8, 16, 3), np.uint8), "name": "frame_0"} | changes


def assert_unknown(batch, row=0):
    assert not batch["depth"][row].any()
    assert (batch["normals"][row] == -2).all()
    assert (batch["instances"][row] == 9).all()
    assert batch["exposure"][row] == 0


def test_what_a_sample_lacks_is_unknown():
    """In training and in evaluation, whatever the augmentation does; and padding is a frame that lacks everything."""
    with train_batches([own()], OWN, batch_size=2, seed=0, augment=Augment(fields=OWN)) as batches:
        batch = next(batches)
    for key, field in OWN.items():
        assert batch[key].shape == (2, *field.shape((8, 16)))
        assert batch[key].dtype == field.dtype
    assert_unknown(batch, 0)
    assert_unknown(batch, 1)
    known = {
        "depth": np.full((8, 16, 1), 700, np.uint16),
        "normals": np.ones((8, 16, 3), np.float32),
        "instances": np.ones((8, 16), np.uint16),
        "exposure": np.float32(3),
    }
    (batch,) = evaluation_batches([own(), own(**known)], OWN, batch_size=4)
    assert batch["mask"].tolist() == [1, 1, 0, 0]
    for row in (0, 2, 3):
        assert_unknown(batch, row)
    assert (batch["image"][:2] == 1).all()
    assert not batch["image"][2:].any()
    for key, value in known.items():
        np.testing.assert_array_equal(batch[key][1], value)


def test_a_batch_holds_the_fields_that_are_asked_for():
    with train_batches([own()], {"image": FIELDS["image"]}, batch_size=2, seed=0) as batches:
        assert list(next(batches)) == ["image"]
