"""Pictures of every kind, against the 8-bit picture that they were made from."""

import io

import cv2
import numpy as np
import pytest
from helpers.picture_bytes import png, pnm, tiff
from PIL import Image

from mtlflax.data import photo
from mtlflax.errors import UserError

pytestmark = pytest.mark.quick


def street(*shape: int) -> np.ndarray:
    """Smooth values from 0 to 255: what a lossy format keeps, and at the full range of 8 bits."""
    small = np.random.default_rng(1).random((4, 6, *shape), np.float32)
    large = cv2.resize(small, (60, 40), interpolation=cv2.INTER_CUBIC)
    return np.rint((large - large.min()) / (large.max() - large.min()) * 255).astype(np.uint8)


GRAY, RGB = street(), street(3)
BGR = RGB[..., ::-1]
GRAY16, RGB16, BGR16 = (values.astype(np.uint16) for values in (GRAY, RGB, BGR))
RGBA = np.dstack([RGB, GRAY])
OPAQUE = np.full_like(GRAY, 255)


def pil(pixels: np.ndarray | Image.Image, kind: str, mode: str | None = None, **options: object) -> bytes:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def read(folder, data: bytes) -> photo.Photo:
    (folder / "x").write_bytes(data)
    pixels, note = photo.read(folder / "x")
    assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
    return photo.Photo(pixels, note)


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        pytest.param(png(GRAY16 * 257), 0, id="png 16 bits"),
        pytest.param(png(BGR16 * 257), 0, id="png 16 bits RGB"),
        pytest.param(png(np.dstack([BGR16 * 257, np.full_like(GRAY16, 65535)])), 0, id="png 16 bits opaque"),
        pytest.param(png(BGR16 << 8), 1, id="png 8 bits high"),
        pytest.param(tiff(GRAY, 1, t281=100), 0, id="tiff 8 bits with a maximum"),
        pytest.param(tiff(RGB, 2, order=">"), 0, id="tiff RGB, big-endian"),
        pytest.param(tiff(255 - GRAY, 0), 0, id="tiff, white is 0"),
        pytest.param(tiff(RGB, 2, planar=2), 0, id="tiff in planes"),
        pytest.param(tiff(np.dstack([RGB, OPAQUE]), 2, t338=2), 0, id="tiff opaque"),
        pytest.param(pnm(5, GRAY, 255), 0, id="pgm"),
        pytest.param(pnm(6, RGB, 255), 0, id="ppm"),
        # What other programs write.
        pytest.param(pil(GRAY, "PNG"), 0, id="png gray"),
        pytest.param(pil(np.dstack([RGB, OPAQUE]), "PNG"), 0, id="png opaque"),
        pytest.param(pil(GRAY, "JPEG", quality=100), 2, id="jpeg gray"),
        pytest.param(pil(RGB, "JPEG", quality=100, subsampling=0), 4, id="jpeg"),
        pytest.param(pil(RGB, "JPEG", "CMYK", quality=100), 4, id="jpeg CMYK"),
        pytest.param(pil(RGB, "TIFF", "CMYK"), 1, id="tiff CMYK"),
        pytest.param(pil(RGB, "TIFF", compression="tiff_lzw"), 0, id="tiff LZW"),
        pytest.param(pil(RGB, "WEBP", lossless=True), 0, id="webp"),
        pytest.param(pil(RGB, "BMP"), 0, id="bmp"),
        pytest.param(pil(GRAY, "BMP"), 0, id="bmp gray"),
    ],
)
def test_values_keep_their_brightness(data, tolerance, tmp_path):
    pixels, note = read(tmp_path, data)
    expected = RGB if (pixels[..., 0] != pixels[..., 1]).any() else GRAY[..., None]
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance
    assert not note


@pytest.mark.parametrize(
    ("bits", "shift", "said"), [(12, 4, "4080, read as 12-bit"), (10, 2, "1020, read as 10-bit"), (8, 0, "255, read")]
)
def test_low_bits_are_scaled_up_with_a_note(bits, shift, said, tmp_path):
    """The picture that was predicted as a black street."""
    low = GRAY16 << shift
    for data in (png(low), png(BGR16 << shift), pil(low, "JPEG2000", irreversible=False)):
        pixels, note = read(tmp_path, data)
        expected = RGB if (pixels[..., 0] != pixels[..., 1]).any() else GRAY[..., None]
        assert np.abs(pixels.astype(int) - expected).max() <= 1
        assert f"values up to {said}" in note


def test_a_dark_picture_is_taken_for_one_of_a_sensor_s_depth(tmp_path):
    pixels, note = read(tmp_path, png(np.array([[0, 1500, 3000]] * 8, np.uint16)))
    assert pixels[0, :, 0].tolist() == [0, 93, 187]  # of 4095
    assert note == "16-bit file with values up to 3000, read as 12-bit (white = 4095)"
    pixels, note = read(tmp_path, png(np.array([[0, 9000, 20000]] * 8, np.uint16)))
    assert (pixels[0, :, 0].tolist(), note) == ([0, 35, 78], "")  # of 65535
    pixels, note = read(tmp_path, png(np.zeros((8, 8), np.uint16)))
    assert not pixels.any()
    assert "up to 0" in note


NEEDS_GIF = pytest.mark.skipif(not cv2.haveImageWriter("x.gif"), reason="this version of OpenCV has no GIF")


@pytest.mark.parametrize("mode", ["P", "1"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", pytest.param("GIF", marks=NEEDS_GIF)])
def test_palettes_and_single_bits(kind, mode, tmp_path):
    data = pil(RGB, kind, mode)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(read(tmp_path, data).pixels, expected)


@NEEDS_GIF
def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.fromarray(RGB).quantize(64), Image.fromarray(255 - RGB).quantize(64)]
    data = pil(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read(tmp_path, data).pixels, np.asarray(frames[0].convert("RGB")))


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif_of_any_depth(bits, tmp_path):
    options = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100]
    try:
        data = cv2.imencode(".avif", BGR if bits == 8 else BGR16 << (bits - 8), options)[1].tobytes()
    except cv2.error:
        pytest.skip("this build of OpenCV has no AVIF")
    pixels, note = read(tmp_path, data)
    assert np.abs(pixels.astype(int) - RGB).max() <= 4
    assert not note


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("orientation", "turns"), [(6, 3), (3, 2), (8, 1)])
def test_pictures_are_turned_upright(orientation, turns, kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind == "JPEG" else {}
    pixels = read(tmp_path, pil(RGB, kind, exif=exif, **options)).pixels.astype(int)
    assert np.abs(pixels - np.rot90(RGB, turns)).mean() < 2


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(pil(RGBA, "PNG"), RGB, id="png"),
        pytest.param(pil(np.dstack([GRAY, GRAY]), "PNG"), GRAY[..., None], id="png gray"),
        pytest.param(png(np.dstack([BGR16, GRAY16]) * 257), RGB, id="png 16 bits"),
        pytest.param(pil(RGBA, "WEBP", lossless=True, exact=True), RGB, id="webp"),
    ],
)
def test_transparency_is_ignored_with_a_note(data, expected, tmp_path):
    pixels, note = read(tmp_path, data)
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, pixels.shape))
    assert note == "its transparency is ignored"


def test_notes_are_joined(tmp_path):
    note = read(tmp_path, png(np.dstack([BGR16 << 4, GRAY16 << 4]))).note
    assert note.endswith("read as 12-bit (white = 4095); its transparency is ignored")


DEEP = "TIFF file of more than 8 bits or with transparency: save it as 8-bit RGB"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(np.full((8, 8), np.nan, np.float32), 1), DEEP),
        (tiff(RGB16 * 257, 2), DEEP),
        (tiff(RGBA, 2, t338=2), DEEP),
        *((pnm(kind, GRAY16 if kind in (2, 5) else RGB16, 4080), "whose values do not") for kind in (2, 3, 5, 6)),
        (b"P7\nWIDTH 8\nHEIGHT 8\nDEPTH 1\nMAXVAL 4095\nTUPLTYPE GRAYSCALE\nENDHDR\n" + bytes(128), "or PAM file"),
        (cv2.imencode(".hdr", RGB.astype(np.float32))[1].tobytes(), "has values of type float32: save it as an 8-bit"),
        (b"", "is an empty file"),
        (b"II*\0", "not a picture"),
    ],
)
def test_what_has_no_known_range_is_an_error(data, reason, tmp_path):
    with pytest.raises(UserError, match=rf"/x: .*({reason})"):
        read(tmp_path, data)


def test_what_is_not_a_file_is_an_error(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (("loop", "Too many levels"), ("folder", "Is a directory"), ("lost", "No such file")):
        with pytest.raises(UserError, match=rf"{name}\.png: cannot be read \({reason}"):
            photo.read(tmp_path / f"{name}.png")
