"""What a data set of one's own may get wrong: each is one error that names the frame, the field or the data set."""

import json
import math
import sys
from types import ModuleType

import numpy as np
import pytest

from mtlflax import data
from mtlflax.data import field_json, loader, units
from mtlflax.data.source import Class, Depth, Image, Labels, Map
from mtlflax.data.transforms import Augment, mirror
from mtlflax.errors import UserError

SIZE = (8, 16)
CLASSES = (Class("road", (128, 64, 128)), Class("sky", (70, 130, 180)))
FIELDS = {
    "image": Image(),
    "labels": Labels(CLASSES),
    "depth": Depth(units.get("millimetres"), dtype="uint16"),
    "normals": Map(3, unknown=9.0, mirror=(-1, 1, 1)),
}


class Drawings:
    """Frames of which one entry may be replaced by something else, or left out: None."""

    def __init__(self, length=4, *, fields=FIELDS, names=None, **other):
        self.fields, self._length, self._other = fields, length, other
        self.names = [f"frame{i}" for i in range(length)] if names is None else names
        self.read = []

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        self.read.append(index)
        sample = {
            "image": np.full((*SIZE, 3), 100, np.uint8),
            "labels": np.ones(SIZE, np.uint8),
            "depth": np.full((*SIZE, 1), 6000, np.uint16),
            "normals": np.full((*SIZE, 3), (1, 0, 0), np.float32),
            "name": f"frame{index}",
        } | self._other
        return {name: value for name, value in sample.items() if value is not None}


def first_batch(drawings, *, evaluation=False):
    if evaluation:
        batches = loader.evaluation_batches(drawings, drawings.fields, batch_size=3, num_threads=0)
    else:
        augment = Augment(fields=drawings.fields, scales=(1.5,), flip=1.0)
        batches = loader.train_batches(drawings, drawings.fields, batch_size=2, seed=0, num_threads=0, augment=augment)
    with batches:
        return next(batches)


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"image": np.zeros((*SIZE, 3), np.int64)}, r"frame 'frame\d': image is int64 \[8, 16, 3\], but .* uint8"),
        ({"image": np.zeros(SIZE, np.uint8)}, r"frame 'frame\d': image is uint8 \[8, 16\], but .* \[8, 16, 3\]"),
        ({"image": np.zeros(8, np.uint8)}, r"frame 'frame\d': image is \[8\], not \[height, width"),
        ({"image": None}, r"frame 'frame\d' has no image"),
        ({"depth": np.float32(3)}, r"frame 'frame\d': depth is float32 \[\], but .* uint16 \[8, 16, 1\]"),
        ({"depth": "6 m"}, r"frame 'frame\d': depth is <U3"),
        ({"labels": np.full(SIZE, 7, np.uint8)}, r"frame 'frame\d': labels holds 7, .* neither a class \(0 to 1\) nor"),
        ({"labels": np.zeros((4, 8), np.uint8)}, r"frame 'frame\d': labels is uint8 \[4, 8\], but .* \[8, 16\]"),
    ],
)
def test_a_sample_that_is_not_as_declared_is_named_before_it_is_augmented(other, message, evaluation):
    with pytest.raises(UserError, match=message):
        first_batch(Drawings(**other), evaluation=evaluation)


def test_a_sample_is_a_dict():
    drawings = Drawings()
    drawings.__class__ = type("Tuples", (Drawings,), {"__getitem__": lambda self, index: (1, 2)})
    with pytest.raises(UserError, match=r"frame \d is a tuple, not a dict of its fields"):
        first_batch(drawings)


@pytest.mark.parametrize("evaluation", [False, True])
def test_a_sample_needs_a_name(evaluation):
    with pytest.raises(UserError, match=r"frame \d has no name"):
        first_batch(Drawings(name=None), evaluation=evaluation)


def test_a_sample_without_a_truth_is_unknown_throughout_and_stays_so_when_augmented():
    batch = first_batch(Drawings(labels=None, depth=None, normals=None))
    assert (batch["labels"] == 255).all()
    assert (batch["depth"] == 0).all()
    assert (batch["normals"] == 9).all()  # mirrored: unknown changes no sign
    assert (batch["image"] > 0).all()  # the picture itself, recolored


def test_all_kinds_are_augmented_as_they_declare():
    batch = first_batch(Drawings())
    assert (batch["depth"] == 4000).all()  # 6 m, 1.5 times nearer
    assert (batch["normals"] == (-1, 0, 0)).all()
    assert (batch["labels"] == 1).all()


def test_only_a_pixel_unknown_in_all_channels_is_not_mirrored():
    known = np.array([[[9.0, 0.0, 0.0], [9.0, 9.0, 9.0]]], np.float32)
    np.testing.assert_array_equal(mirror(known, FIELDS["normals"]), [[[9, 9, 9], [-9, 0, 0]]])


def test_recorded_fields_are_json_that_any_reader_takes():
    fields = FIELDS | {"edges": Map(unknown=math.nan), "near": Depth(units.get("metres"), least=0.5, most=20.0)}
    text = json.dumps(field_json.to_json(fields), allow_nan=False)  # raises at Infinity and NaN, which JSON lacks
    read = field_json.from_json(json.loads(text))
    assert math.isnan(read.pop("edges").unknown)
    assert read == {name: field for name, field in fields.items() if name != "edges"}
    assert read["depth"].most == math.inf


@pytest.fixture
def opened(monkeypatch):
    """Open a source as `config.data.name` does."""

    def open_source(drawings):
        module = ModuleType("my_drawings")
        module.drawings = lambda config, split: drawings
        monkeypatch.setitem(sys.modules, "my_drawings", module)
        return data.open_source("my_drawings:drawings", None, "train")

    return open_source


@pytest.mark.parametrize(
    ("drawings", "message"),
    [
        (None, "its NoneType has no fields"),
        (Drawings(fields=["image"]), "`fields` is a list"),
        (Drawings(fields={"image": "a picture"}), "field 'image' is not one of"),
        (Drawings(fields={"labels": Labels(CLASSES)}), "declares no field 'image'"),
        (Drawings(0), "train has no frames"),
        (Drawings(names=["a"]), "4 frames and 1 different names"),
        (Drawings(names=["a", "b", "b", "c"]), "4 frames and 3 different names"),
    ],
)
def test_what_is_no_source_is_refused_when_it_is_opened(drawings, message, opened):
    with pytest.raises(UserError, match=f"data set 'my_drawings:drawings': .*{message}"):
        opened(drawings)


def test_a_source_is_opened_without_reading_a_frame(opened):
    drawings = Drawings()
    assert opened(drawings) is drawings
    assert not drawings.read


def test_truths_are_looked_for_all_over_the_set():
    drawings = Drawings(63, labels=np.full(SIZE, 255, np.uint8))
    (note,) = data.check_truth(drawings, {"segmentation": ["labels"]})
    assert "none of 32 training frames has a known value in labels (looked at, of 63)" in note
    assert drawings.read[0] == 0
    assert drawings.read[-1] >= 60
    assert len(drawings.read) == len(set(drawings.read)) == 32


def test_validation_frames_declare_what_the_training_frames_do():
    unknown = {"edges": Map(unknown=float("nan"))}
    data.check_alike(
        Drawings(fields=FIELDS | unknown),
        Drawings(fields=FIELDS | {"edges": Map(unknown=math.nan)}),
        [*FIELDS, "edges"],
    )

    other = FIELDS | {"depth": Depth(units.get("metres"), dtype="uint16")}
    data.check_alike(Drawings(), Drawings(fields=other), ["image", "labels"])  # what no task reads may differ
    with pytest.raises(
        UserError, match=r"the field 'depth' is not the same .* its unit is .*millimetres.* and .*'metres'"
    ):
        data.check_alike(Drawings(), Drawings(fields=other), FIELDS)

    fewer = Drawings(fields={"image": Image()})
    with pytest.raises(UserError, match="the validation frames lack the field 'depth': it declares image"):
        data.check_alike(Drawings(), fewer, ["depth"])
    fewer.missing = {"depth": "unpack disparity.zip"}
    with pytest.raises(UserError, match=r"lack the field 'depth': unpack disparity\.zip"):
        data.check_alike(Drawings(), fewer, ["depth"])
