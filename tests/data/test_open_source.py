"""Opening a data set of one's own, and looking for tasks that would train on nothing."""

import types

import numpy as np
import pytest

from mtlflax import data
from mtlflax.data import units
from mtlflax.data.source import Class, Depth, Image, Labels, Map
from mtlflax.errors import UserError

FIELDS = {
    "image": Image(),
    "segmentation": Labels((Class("a", (0, 0, 0)), Class("b", (9, 9, 9)))),
    "depth": Depth(units.get("metres"), most=10),
    "normals": Map(3, unknown=float("nan")),
}
UNKNOWN = {
    "segmentation": np.full((4, 4), 255, np.uint8),
    "depth": np.full((4, 4, 1), 11, np.float32),  # out of the valid range
    "normals": np.full((4, 4, 3), np.nan, np.float32),
}
KNOWN = {
    "segmentation": np.zeros((4, 4), np.uint8),
    "depth": np.ones((4, 4, 1), np.float32),
    "normals": np.zeros((4, 4, 3), np.float32),
}
READS = {"segmentation": ("segmentation",), "depth": ("depth",), "normals": ("normals",), "image": ("image",)}


class Own:
    """A source of `length` frames without any truth, but for some in one frame."""

    def __init__(self, length=3, at=0, read=None, **known):
        self.fields, self.names = FIELDS, [f"frame {i}" for i in range(length)]
        self._at, self._known = at, known
        self.read = []

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        self.read.append(index)
        return {**UNKNOWN, **(self._known if index == self._at else {}), "name": self.names[index]}


def test_a_task_without_any_truth_is_an_error_where_all_frames_were_seen():
    with pytest.raises(UserError) as error:
        data.check_truth(Own(depth=KNOWN["depth"], segmentation=KNOWN["segmentation"]), READS)
    expected = "the task normals has nothing to learn from: none of 3 training frames has a known value in normals"
    assert str(error.value) == expected


def test_it_is_a_note_for_a_large_set():
    source = Own(100, depth=KNOWN["depth"])
    notes = data.check_truth(source, READS)
    assert notes == [
        f"none of 32 training frames has a known value in {name} (looked at, of 100): does the task {name} have any "
        "truth?"
        for name in ("normals", "segmentation")
    ]
    assert source.read == [100 * i // 32 for i in range(32)]


@pytest.mark.parametrize("at", [0, 2])
def test_truth_in_one_frame_is_enough(at):
    assert data.check_truth(Own(at=at, **KNOWN), READS) == []


def test_no_more_frames_are_read_than_needed():
    source = Own(100, **KNOWN)
    data.check_truth(source, READS)
    assert source.read == [0]


def test_a_field_that_no_frame_has_is_no_truth():
    source = Own(2, **{name: KNOWN[name] for name in ("segmentation", "normals")})
    with pytest.raises(UserError, match="known value in depth"):
        data.check_truth(_Lacking(source, "depth"), READS)


class _Lacking:
    def __init__(self, source, name):
        self._source, self._name = source, name
        self.fields, self.names = source.fields, source.names

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        return {key: value for key, value in self._source[index].items() if key != self._name}


def opened(monkeypatch, source):
    monkeypatch.setitem(data.SOURCES, "own", lambda config, split: source)
    return data.open_source("own", None, "train")


@pytest.mark.parametrize("attribute", ["fields", "names"])
def test_what_a_source_lacks_is_named(monkeypatch, attribute):
    source = Own()
    delattr(source, attribute)
    with pytest.raises(UserError, match=rf"data set 'own': its Own has no {attribute} \(see"):
        opened(monkeypatch, source)


def test_no_source_at_all(monkeypatch):
    with pytest.raises(UserError, match="data set 'own': its NoneType has no fields"):
        opened(monkeypatch, None)
    with pytest.raises(UserError, match="data set 'own': its SimpleNamespace has no __len__"):
        opened(monkeypatch, types.SimpleNamespace(fields=FIELDS, names=[]))


def test_the_image_is_an_image(monkeypatch):
    source = Own()
    source.fields = {"image": Map(3)}
    with pytest.raises(UserError, match="data set 'own': declares no field 'image' of the kind Image"):
        opened(monkeypatch, source)


def test_no_function(monkeypatch):
    monkeypatch.setitem(data.SOURCES, "own", FIELDS)
    with pytest.raises(UserError, match="data set 'own' is a dict: name a function"):
        data.open_source("own", None, "train")


def test_a_root_of_ones_own_becomes_absolute_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert data.resolve("m:f", "here") == ("m:f", str(tmp_path / "here"))
    assert data.resolve("m:f", "gs://there") == ("m:f", "gs://there")
    assert data.resolve("m:f", "") == ("m:f", "")
