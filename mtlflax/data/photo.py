"""Read a user's pictures, in any format that OpenCV knows: right, or with an error that says why not."""

import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mtlflax.data import png, tiff, value_range
from mtlflax.errors import UserError
from mtlflax.files import read_bytes

# A JPEG marker: FF and its code. FF 00 is a byte of data; 01 and D0 to D8 stand alone and end nothing.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_JPEG_START, _JPEG_END = b"\xff\xd8", 0xD9
_TEXT_PNM = (b"P1", b"P2", b"P3")
_NO_ALPHA = (_JPEG_START, b"BM", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")


class Photo(NamedTuple):
    """A picture as a network takes it."""

    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    note: str  # what the user should know about how it was read; "" if nothing


def read(path: Path) -> Photo:
    """Read a picture, upright according to its EXIF data.

    Values of more than 8 bits are scaled by the range that the file states, or else by one that is guessed, with a note
    (see `value_range`). Transparency is ignored: colors are those stored. Of several frames, the first is read.

    Raises:
        UserError: the file cannot be read, is truncated, is not a picture, or is one whose values have no known range.
    """
    data = read_bytes(path)
    _check(data, path)
    pixels = _decode(data, _flags(data))
    if pixels is None or not pixels.size:
        raise UserError(f"{path}: is not a picture that can be read")
    try:
        pixels, note = value_range.to_8_bits(pixels[..., :3] if pixels.ndim == 3 else pixels, data)
    except ValueError as error:
        raise UserError(f"{path}: {error}: save it as an 8-bit picture") from error
    if _is_transparent(data):
        if data.startswith(tiff.SIGNATURES):  # libtiff has multiplied the colors by the transparency
            raise UserError(f"{path}: is a TIFF file with transparent pixels: save it without transparency")
        note = "; ".join(filter(None, [note, "its transparency is ignored"]))
    return Photo(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB), note)


def _check(data: bytes, path: Path) -> None:
    """Raise UserError for files that OpenCV would read without an error, but wrong."""
    if not data:
        raise UserError(f"{path}: is an empty file")
    if data.startswith(png.SIGNATURE):
        png.check(data, path)
    elif data.startswith(_JPEG_START) and not _has_end(data):
        # OpenCV would fill in what is missing: with gray, or with what was in memory, depending on its version.
        raise UserError(f"{path}: is truncated: copy it again")
    elif data.startswith(tiff.SIGNATURES) and (reason := tiff.misread(tiff.tags(data))):
        raise UserError(f"{path}: is a TIFF file that cannot be read ({reason}): save it as 8-bit RGB")
    elif data.startswith(b"P7"):  # OpenCV swaps the bytes of 16-bit values
        raise UserError(f"{path}: is a PAM file, which cannot be read: save it as PNG")


def _flags(data: bytes) -> int:
    if data.startswith(tiff.SIGNATURES) and tiff.is_float(tiff.tags(data)):
        return cv2.IMREAD_UNCHANGED  # a conversion to color fails; TIFF files are turned upright all the same
    if data[4:8] == b"ftyp":
        return cv2.IMREAD_COLOR  # AVIF: its library scales 10 and 12 bits to 8
    return cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    """Decode as BGR or gray; None if OpenCV cannot."""
    if data.startswith(_TEXT_PNM):
        data += b"\n"  # OpenCV takes a last number without a line end for a truncated file
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # such as a size beyond OpenCV's bounds
        return None


def _is_transparent(data: bytes) -> bool:
    """Whether any pixel of a file that can be decoded is not opaque."""
    if data.startswith(_NO_ALPHA):
        return False
    if data.startswith(png.SIGNATURE) and not png.header(data).has_alpha:
        return False
    if data.startswith(tiff.SIGNATURES) and not tiff.has_alpha(tiff.tags(data)):
        return False
    pixels = _decode(data, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim == 2 or pixels.shape[2] < 4:
        return False
    alpha = pixels[..., 3]
    # The range of a wider alpha channel may be that of the colors or not: opaque is what is the same everywhere.
    return bool(alpha.min() < (255 if alpha.dtype == np.uint8 else alpha.max()))


def _has_end(data: bytes) -> bool:
    """Whether a JPEG file has an end mark after the picture itself, not only in a thumbnail; more data may follow."""
    position = len(_JPEG_START)
    while marker := _JPEG_MARKER.search(data, position):
        position = marker.end()
        if data[position - 1] == _JPEG_END:
            return True
        position += int.from_bytes(data[position : position + 2])  # skip the segment; coded data may follow it
    return False
