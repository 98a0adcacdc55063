"""Fields: their record in JSON, and what a declaration refuses."""

import json

import numpy as np
import pytest

from mtlflax.data import field_json, units
from mtlflax.data.source import Class, Depth, Image, Labels, Map, Number

CLASSES = (Class("road", (128, 64, 128), group="flat", id=7), Class("car", (0, 0, 142)))
FIELDS = {
    "image": Image(aspect=2.0),
    "segmentation": Labels(CLASSES, ignore=-1, dtype="int16"),
    "instances": Labels(dtype="uint16", ignore=65535),
    "depth": Depth(units.get("millimetres"), least=300, most=8000, dtype="uint16"),
    "far": Depth(units.Unit("tum", scale=1 / 5000)),
    "normals": Map(3, unknown=float("nan"), mirror=(-1, 1, 1)),
    "focal_baseline": Number(dtype="float64"),
}


def test_the_record_reads_back():
    written = json.loads(json.dumps(field_json.to_json(FIELDS)))
    read = field_json.from_json(written)
    assert list(read) == list(FIELDS)
    nan = read.pop("normals")
    assert read == {name: field for name, field in FIELDS.items() if name != "normals"}
    assert (nan.channels, nan.mirror, nan.dtype) == (3, (-1, 1, 1), "float32")
    assert np.isnan(nan.fill)
    assert {type(field) for field in FIELDS.values()} == set(field_json.KINDS.values())  # every kind


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "sound"}, "field 'x' is of an unknown kind 'sound': choose from image, labels"),
        ({"kind": "map", "unknown": "none"}, "field 'x': .*'none'"),
        ({"kind": "image", "colors": 3}, "field 'x': .*colors"),
        ({"kind": "depth"}, "field 'x': .*unit"),
        ({"dtype": "uint8"}, "field 'x' is of an unknown kind None"),
        ({"kind": "depth", "unit": {"name": "m", "foot": 1}}, "field 'x': .*foot"),
    ],
)
def test_a_damaged_record_is_named(entry, message):
    with pytest.raises(ValueError, match=message):
        field_json.from_json({"x": entry})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Labels((CLASSES[0], CLASSES[0])), "'road' is in the table twice"),
        (lambda: Labels(CLASSES, ignore=1), "ignore is 1, the number of the class 'car'"),
        (lambda: Labels(CLASSES, ignore=-1), "2 classes and ignore -1 do not fit uint8"),
        (lambda: Labels(CLASSES, ignore=256), "do not fit uint8"),
        (lambda: Map(2, mirror=(1,)), "1 mirror factors for 2 channels"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_shapes_and_what_stands_for_unknown():
    found = {name: (field.shape((4, 6)), field.fill) for name, field in FIELDS.items() if name != "normals"}
    assert found == {
        "image": ((4, 6, 3), 0),
        "segmentation": ((4, 6), -1),
        "instances": ((4, 6), 65535),
        "depth": ((4, 6, 1), 0),
        "far": ((4, 6, 1), 0),
        "focal_baseline": ((), 0),
    }
    assert FIELDS["normals"].shape((4, 6)) == (4, 6, 3)


def test_the_class_table():
    assert FIELDS["segmentation"].names == ("road", "car")
    assert FIELDS["segmentation"].colors.tolist() == [[128, 64, 128], [0, 0, 142]]
    assert FIELDS["instances"].colors.shape == (0, 3)


def test_what_is_measured():
    depth = FIELDS["depth"]
    assert depth.measured(np.array([0, 299, 300, 8000, 8001], np.uint16)).tolist() == [False, False, True, True, False]
    values = np.array([0, -1, 1e-9, np.inf, np.nan], np.float32)
    assert FIELDS["far"].measured(values).tolist() == [False, False, True, False, False]
