"""Ground truth from files of every kind: what was stored, or an error that names the file."""

import io

import cv2
import numpy as np
import pytest
from helpers.picture_bytes import png, tiff
from PIL import Image

from mtlflax.data import truth_file
from mtlflax.errors import UserError

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 4, (7, 9)).astype(np.uint8)
CODES = RNG.integers(0, 65536, (7, 9)).astype(np.uint16)
COLORS = RNG.integers(0, 256, (7, 9, 3)).astype(np.uint8)
METRES = RNG.uniform(0, 80, (7, 9)).astype(np.float32)


def palette(bits: int = 8) -> bytes:
    picture = Image.fromarray(IDS, "P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    return save(picture, "PNG", bits=bits, transparency=0)


def save(picture: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def numpy(values: np.ndarray, **named: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    if named:
        np.savez_compressed(buffer, **named)
    else:
        np.save(buffer, values)
    return buffer.getvalue()


def encode(suffix: str, values: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, values[..., ::-1] if values.ndim == 3 else values, options)[1].tobytes()


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("gray.png", png(IDS), IDS),
        ("16bits.png", png(CODES), CODES),
        ("color.png", save(COLORS, "PNG"), COLORS),
        ("gray_as_color.png", save(np.dstack([IDS] * 3), "PNG"), IDS),
        ("gray_as_rgba.png", save(np.dstack([IDS] * 3 + [np.full_like(IDS, 255)]), "PNG"), IDS),
        ("palette.png", palette(), IDS),
        ("palette_2bits.png", palette(2), IDS),
        ("palette_4bits.png", palette(4), IDS),
        ("1bit.png", save(Image.fromarray(IDS > 1), "PNG"), (IDS > 1).astype(np.uint8)),
        ("a.tif", encode(".tiff", CODES), CODES),
        ("metres.tiff", encode(".tiff", METRES), METRES),
        ("labels.tiff", encode(".tiff", IDS.astype(np.int32)), IDS.astype(np.int32)),
        ("metres.pfm", encode(".pfm", METRES), METRES),
        ("lossless.webp", save(COLORS, "WEBP", lossless=True), COLORS),
        ("a.bmp", encode(".bmp", COLORS), COLORS),
        ("UPPER.PNG", png(IDS), IDS),
        ("metres.npy", numpy(METRES), METRES),
        ("three.npy", numpy(np.dstack([METRES] * 3)), np.dstack([METRES] * 3)),
        ("metres.npz", numpy(METRES, depth=METRES), METRES),
    ],
)
def test_what_is_stored(tmp_path, name, data, expected):
    (tmp_path / name).write_bytes(data)
    found = truth_file.read(tmp_path / name)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_exr(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    path = tmp_path / "depth.exr"
    openexr.File({"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}, {"Z": METRES}).write(
        str(path)
    )
    np.testing.assert_array_equal(truth_file.read(path), METRES)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"depth\.exr: cannot be read as an EXR file"):
        truth_file.read(path)


def test_exr_without_a_reader(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "OpenEXR", None)
    (tmp_path / "depth.exr").write_bytes(b"v/1\x01")
    with pytest.raises(UserError, match="pip install OpenEXR"):
        truth_file.read(tmp_path / "depth.exr")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.png", b"", "is an empty file"),
        ("a.png", save(COLORS, "JPEG"), "is a JPEG file, which changes the numbers"),
        ("a.webp", save(COLORS, "WEBP", quality=80), "is a lossy WebP file"),
        ("a.png", b"hello", "cannot be decoded"),
        ("a.npy", b"hello", "cannot be read as a NumPy array"),
        ("a.npy", numpy(np.array(["a"])), r"holds <U1 \[1\], not numbers"),
        ("a.npy", numpy(np.zeros((2, 3, 4, 5))), "not numbers"),
        ("a.npy", numpy(np.zeros((0, 4))), "not numbers"),
        ("a.npz", numpy(METRES, a=METRES, b=METRES), r"it holds 2 arrays \(a, b\), not one"),
    ],
)
def test_what_cannot_be_ground_truth(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name}: .*{message}"):
        truth_file.read(tmp_path / name)


@pytest.mark.parametrize("name", [".", "missing.png"])
def test_what_is_no_file(tmp_path, name):
    with pytest.raises(UserError, match="cannot be read"):
        truth_file.read(tmp_path / name)


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".png", png(CODES)),
        (".png", palette()),
        (".tiff", encode(".tiff", METRES)),
        (".tiff", tiff(IDS, 1)),
        (".pfm", encode(".pfm", METRES)),
        (".webp", save(COLORS, "WEBP", lossless=True)),
        (".npy", numpy(METRES)),
        (".npz", numpy(METRES, depth=METRES)),
    ],
    ids=["png", "palette", "tiff", "tiff with its directory first", "pfm", "webp", "npy", "npz"],
)
def test_a_truncated_file_is_refused_or_whole(tmp_path, suffix, data, capfd):
    """At every length: what comes back, if anything, is what was stored."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    whole = truth_file.read(path)
    refused = 0
    for length in range(len(data)):
        path.write_bytes(data[:length])
        found = refusal = None
        try:
            found = truth_file.read(path)
        except UserError as error:
            refusal = str(error)
        if found is None:
            refused += 1
            assert refusal.startswith(str(path))
        else:
            np.testing.assert_array_equal(found, whole)
    assert refused >= 0.9 * len(data)
    capfd.readouterr()
