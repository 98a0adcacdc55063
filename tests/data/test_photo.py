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
        # Which range the values have is stated by the file, or filled to 16 bits.
        pytest.param(png(GRAY16 * 257), 0, id="png 16 bits"),
        pytest.param(png(BGR16 * 257), 0, id="png 16 bits RGB"),
        pytest.param(png(np.dstack([BGR16 * 257, np.full_like(GRAY16, 65535)])), 0, id="png 16 bits opaque"),
        pytest.param(png(BGR16 << 8), 1, id="png 8 bits high"),
        pytest.param(png(GRAY16 << 4, b"\x0c"), 1, id="png 12 bits low, sBIT"),
        pytest.param(png(BGR16 << 8, b"\x0c\x0c\x0b"), 1, id="png 12 bits high, sBIT"),
        pytest.param(png(BGR16, b"\x08\x08\x08"), 0, id="png 8 bits low, sBIT"),
        pytest.param(png(BGR, b"\x05\x06\x05"), 0, id="png 8 bits, sBIT"),
        pytest.param(pnm(5, GRAY16 * 257, 65535), 0, id="pgm 65535"),
        pytest.param(pnm(6, RGB16 * 257, 65535), 0, id="ppm 65535"),
        pytest.param(pnm(5, GRAY16 * 4, 1020), 0, id="pgm 1020"),
        pytest.param(pnm(6, RGB16 * 16, 4080), 0, id="ppm 4080"),
        pytest.param(pnm(6, RGB16 * 4, 1020), 0, id="ppm 1020"),
        pytest.param(pnm(5, GRAY, 255), 0, id="pgm 255"),
        pytest.param(pnm(5, GRAY >> 1, 127), 2, id="pgm 127"),
        pytest.param(pnm(6, RGB >> 4, 15), 15, id="ppm 15"),
        pytest.param(pnm(2, GRAY16 * 16, 4080), 0, id="text pgm 4080"),
        pytest.param(pnm(3, RGB16 * 16, 4080), 0, id="text ppm 4080"),
        pytest.param(pnm(2, GRAY >> 1, 127), 2, id="text pgm 127"),
        pytest.param(pnm(3, RGB >> 4, 15), 15, id="text ppm 15"),
        pytest.param(tiff(GRAY16 * 257, 1), 0, id="tiff 16 bits"),
        pytest.param(tiff(RGB16 * 257, 2, order=">"), 0, id="tiff 16 bits RGB, big-endian"),
        pytest.param(tiff(RGB16 * 16, 2, t281=[4080] * 3), 0, id="tiff with a maximum"),
        pytest.param(tiff(GRAY, 1, t281=100), 0, id="tiff 8 bits with a maximum"),
        pytest.param(tiff(np.dstack([RGB16, RGB16[..., :1] * 0 + 255]) * 257, 2, t338=2), 0, id="tiff 16 bits opaque"),
        pytest.param(tiff(255 - GRAY, 0), 0, id="tiff, white is 0"),
        pytest.param(tiff(RGB, 2, planar=2), 0, id="tiff 8 bits in planes"),
        pytest.param(tiff(GRAY.astype(np.float32) / 255, 1), 0, id="tiff float"),
        pytest.param(tiff(RGB.astype(np.float32) / 255, 2), 0, id="tiff float RGB"),
        pytest.param(tiff(GRAY / 255, 1), 0, id="tiff double"),
        pytest.param(tiff(np.dstack([RGB, OPAQUE]).astype(np.float32) / 255, 2, t338=2), 0, id="tiff float opaque"),
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


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("bits", "shift", "said"), [(12, 4, "4080, read as 12-bit"), (10, 2, "1020, read as 10-bit"), (8, 0, "255, read")]
)
def test_low_bits_are_scaled_up_with_a_note(bits, shift, said, kind, tmp_path):
    """The picture that was predicted as a black street."""
    low = GRAY16 << shift
    for data in (png(low), png(BGR16 << shift)) if kind == "PNG" else (tiff(low, 1), tiff(RGB16 << shift, 2)):
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
    # What a file states is believed, unless its values exceed it.
    pixels, note = read(tmp_path, tiff(np.full((8, 8), 3000, np.uint16), 1, t281=65535))
    assert (pixels[0, 0, 0], note) == (12, "")
    for wrong in (0, 2000):
        pixels, note = read(tmp_path, tiff(np.full((8, 8), 3000, np.uint16), 1, t281=wrong))
        assert (pixels[0, 0, 0], note[-21:]) == (187, "12-bit (white = 4095)")
    pixels, note = read(tmp_path, png(np.full((8, 8), 3000, np.uint16), b"\x10"))
    assert (pixels[0, 0, 0], note) == (12, "")


def test_jpeg_2000_states_less_than_16_bits(tmp_path):
    low = GRAY16 * 16
    pixels, note = read(tmp_path, pil(low, "JPEG2000", irreversible=False))
    assert "read as 12-bit" in note
    assert np.abs(pixels - GRAY[..., None].astype(int)).max() <= 1
    # Stored are differences from the middle of the range, so that the range is changed in the headers alone.
    dark = low // 4
    data = bytearray(pil((dark + 2**15 - 2**11).astype(np.uint16), "JPEG2000", irreversible=False))
    data[data.index(b"\xff\x4f\xff\x51") + 42] = data[data.index(b"ihdr") + 14] = 11
    pixels, note = read(tmp_path, bytes(data))
    assert not note
    assert np.abs(pixels * 4.0 - GRAY[..., None]).max() <= 4


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
    for values in (GRAY16 * 257, GRAY.astype(np.float32) / 255):
        pixels = read(tmp_path, tiff(values, 1, t274=orientation)).pixels
        np.testing.assert_array_equal(pixels[..., 0], np.rot90(GRAY, turns))


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


NAN = np.full((8, 8), np.nan, np.float32)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(NAN, 1), "has values that are NaN or infinite: save it as an 8-bit picture"),
        (tiff(np.float32(GRAY), 1), "has values from 0 to 255, where 0 to 1 is needed"),
        (tiff(GRAY / np.float32(255) - 1, 1), "has values from -1 to 0, where"),
        (tiff(GRAY.astype(np.uint32), 1), "not a picture that can be read|has values of type uint32"),
        (tiff(GRAY.astype(np.int16), 1), r"\(signed values\)"),
        (tiff(65535 - GRAY16 * 257, 0), "neither gray nor RGB"),
        (tiff(np.dstack([GRAY16, GRAY16]) << 4, 1, t338=2), "neither gray nor RGB"),
        (tiff(RGB16 * 257, 8), "neither gray nor RGB"),
        (tiff(RGB16 * 257, 2, planar=2), "in separate color planes"),
        (tiff(RGB, 2, t254=1), "thumbnail"),
        (tiff(RGBA, 2, t338=2), "transparent pixels: save it without"),
        (b"P7\nWIDTH 8\nHEIGHT 8\nDEPTH 1\nMAXVAL 4095\nTUPLTYPE GRAYSCALE\nENDHDR\n" + bytes(128), "is a PAM file"),
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
