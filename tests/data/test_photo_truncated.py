"""Truncated pictures of every format are errors, and complete ones are not, whatever else is in the file."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mtlflax.data import photo
from mtlflax.errors import UserError

pytestmark = pytest.mark.quick


def noise(suffix: str, *options: int) -> bytes:
    """A file of noise, coded in the order of its rows, so that half of the file is half of the picture."""
    pixels = np.random.default_rng(1).integers(0, 256, (64, 128, 3), np.uint8)
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def tiff_with_head_first() -> bytes:
    """A file whose directory comes before its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(cv2.imdecode(np.frombuffer(noise(".bmp"), np.uint8), 1)).save(buffer, "TIFF", compression="raw")
    return buffer.getvalue()


# What cameras add: a preview in the file's head, which has an end mark of its own.
PREVIEW = b"\xff\xe1" + (2 + 300).to_bytes(2) + noise(".jpg")[:298] + b"\xff\xd9"
JPEG, PROGRESSIVE = noise(".jpg"), noise(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
CAMERAS = JPEG[:2] + PREVIEW + JPEG[2:]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("half.jpg", JPEG[: len(JPEG) // 2]),
        ("almost.jpg", JPEG[:-2]),
        (
            "zeros.jpg",
            JPEG[: len(JPEG) // 2] + bytes(len(JPEG) // 2),
        ),  # space reserved, copy not finished
        ("progressive.jpg", PROGRESSIVE[: len(PROGRESSIVE) // 2]),
        ("preview.jpg", CAMERAS[: len(CAMERAS) // 2]),
        ("head.jpg", CAMERAS[:200]),
        ("half.png", noise(".png")[:9000]),
        ("almost.png", noise(".png")[:-1]),
        ("half.webp", noise(".webp")[:4000]),
        ("half.tif", noise(".tif")[:9000]),
        ("head_first.tif", tiff_with_head_first()[:9000]),
        ("half.bmp", noise(".bmp")[:9000]),
        ("half.ppm", noise(".ppm")[:9000]),
        ("almost.ppm", noise(".ppm")[:-1]),
        ("half.jp2", noise(".jp2")[:4000]),
        ("empty.jpg", b""),
        ("movie.gif", b"GIF89a" + bytes(20)),
    ],
)
def test_a_truncated_picture_is_not_half_predicted(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=name) as error:
        photo.read(tmp_path / name)
    assert not name.endswith((".jpg", ".png")) or not data or "truncated" in str(error.value)


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, CAMERAS, JPEG + bytes(100), JPEG + b"\xff\xd8\xff\xe1\0\x99"])
def test_a_whole_jpeg_is_read_whatever_is_in_it(data, tmp_path):
    (tmp_path / "x.jpg").write_bytes(data)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(photo.read(tmp_path / "x.jpg").pixels, expected)
