"""Files of any content: they are read, or refused by an error that names them; nothing else ever happens."""

import functools
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import folders
from helpers.picture_bytes import png, tiff
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlflax.data import class_table, photo, truth_file
from mtlflax.data.folder import frames
from mtlflax.errors import UserError


def encoded(suffix: str, values: np.ndarray) -> bytes:
    return cv2.imencode(suffix, values)[1].tobytes()


@functools.cache
def whole() -> list[tuple[str, bytes]]:
    """A file of every kind."""
    image, labels, depth = folders.image(0, (9, 14)), folders.labels(0, 5, (9, 14)), folders.depth(0, (9, 14))
    found = [("a.png", png(labels)), ("b.png", png(depth)), ("c.png", png(image)), ("d.tif", tiff(labels, 1))]
    found += [(f"e{suffix}", encoded(suffix, image)) for suffix in (".jpg", ".bmp", ".webp", ".tiff", ".ppm")]
    found += [("f.pfm", encoded(".pfm", depth.astype(np.float32))), ("g.tiff", encoded(".tiff", depth))]
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "h.npy", depth)
        np.savez_compressed(Path(folder) / "i.npz", depth=depth)
        found += [(path.name, path.read_bytes()) for path in sorted(Path(folder).iterdir())]
    return found


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of some kind in which bytes were changed, left out, or put in; or of another name; or anything."""
    name, content = draw(st.sampled_from(whole()))
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        kind, place = draw(st.sampled_from("xcdi")), draw(st.integers(0, max(0, len(data) - 1)))
        if kind == "x" and data:
            data[place] = draw(st.integers(0, 255))
        elif kind == "c":
            del data[place:]
        elif kind == "d":
            del data[place : place + draw(st.integers(1, 40))]
        else:
            data[place:place] = draw(st.binary(max_size=20))
    if draw(st.integers(0, 9)) == 0:
        name = draw(st.sampled_from(whole()))[0]
    return name, draw(st.binary(max_size=200)) if draw(st.integers(0, 19)) == 0 else bytes(data)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(damaged())
def test_a_file_is_read_or_refused(file):
    name, data = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        for read in (truth_file.read, lambda path: photo.read(path).pixels):
            try:
                values = read(path)
            except UserError as error:
                assert str(path) in str(error)  # noqa: PT017 (either may happen)
                continue
            assert values.ndim in (2, 3)
            assert values.size
            assert np.issubdtype(values.dtype, np.number)


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 300),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-1, 300), max_size=4),
)
_KEYS = st.sampled_from(
    ["id", "name", "color", "r", "g", "b", "train_id", "ignore", "group", "evaluate", "ID", "other"]
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.dictionaries(_KEYS, _VALUES, max_size=6), st.text(max_size=5)), max_size=5))
def test_a_table_is_made_or_refused(rows):
    """A ValueError says what is wrong; a table that is made has classes, and a field."""
    try:
        table = class_table.make(rows)
    except ValueError:
        return
    assert table.classes
    assert len(table.field.names) == len(table.classes)
    assert set(table.values.values()) <= {-1, *range(len(table.classes))}


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.text(alphabet="ab/{}*._split-", max_size=20), st.text(alphabet="ab/._-", max_size=20))
def test_a_pattern_matches_or_is_refused(text, path):
    try:
        pattern = frames.Pattern(text, ("train",), (".png",))
    except ValueError:
        return
    found = pattern.match(path)
    assert found is None or set(found) == set(pattern.words)


@pytest.mark.parametrize(
    "name",
    ["ünïcode.png", "sp ace.png", "new\nline.png", "a.b.c.png", b"\xff\xfe.png".decode("utf-8", "surrogateescape")],
)
def test_names_of_any_kind(tmp_path, name):
    """They are matched, read and told from each other; a name that is no UTF-8 is no obstacle."""
    root = folders.write(tmp_path, {"segmentation/x.png": folders.labels(0, 5), "images/x.png": folders.image(0)})
    for folder in ("images", "segmentation"):
        (root / folder / "x.png").rename(root / folder / name)
        folders.write(root, {f"{folder}/other.png": folders.image(1) if folder == "images" else folders.labels(1, 5)})
    found = []
    for split in ("train", "val"):
        listed, _ = frames.match(root, split, "images/*", {"segmentation": ("segmentation/*", (".png",))}, {}, 0.5)
        found += listed
    assert {frame.name for frame in found} == {name.removesuffix(".png"), "other"}
    for frame in found:
        assert truth_file.read(frame.files["segmentation"]).shape == folders.SIZE
