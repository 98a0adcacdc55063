"""Read a user's pictures, in any format that OpenCV knows: right, or with an error that says why not."""

import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mtlflax.data import png
from mtlflax.errors import UserError
from mtlflax.files import read_bytes

# A JPEG marker: FF and its code. FF 00 is a byte of data; 01 and D0 to D8 stand alone and end nothing.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_JPEG_START, _JPEG_END = b"\xff\xd8", 0xD9
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NETPBM = tuple(b"P%d" % kind for kind in range(1, 8))
_PLAIN_NETPBM = re.compile(rb"P[56](?:\s+|#[^\n]*\n)+\d+\s+\d+\s+255\s")  # gray or RGB, of 8 bits
_DEPTHS = (8, 10, 12, 14, 16)  # of sensors, and of 8-bit pictures stored in 16 bits


class Photo(NamedTuple):
    """A picture as a network takes it."""

    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    note: str  # what the user should know about how it was read; "" if nothing


def read(path: Path, white: int = 0) -> Photo:
    """Read a picture, upright according to its EXIF data.

    16-bit files often hold 10, 12 or 14 bits of a sensor. `white` is the value that stands for white; unless it is
    given, it is taken to be the largest value of the smallest of 8, 10, 12, 14, 16 bits that holds all values, and a
    note says so. Transparency is ignored: colors are those stored. Of several frames, the first is read.

    Raises:
        UserError: the file cannot be read, is truncated, is not a picture, or has values of other types or of a range
            that is not known: TIFF and Netpbm files of other than 8 bits.
    """
    data = read_bytes(path)
    _check(data, path)
    # AVIF's library scales 10 and 12 bits to 8 itself.
    depth = 0 if data[4:8] == b"ftyp" else cv2.IMREAD_ANYDEPTH
    pixels = _decode(data, cv2.IMREAD_COLOR | depth)
    if pixels is None or not pixels.size:
        raise UserError(f"{path}: is not a picture that can be read")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path}: has values of type {pixels.dtype}: save it as an 8-bit picture")
    notes = []
    if pixels.dtype == np.uint16:
        largest = int(pixels.max())
        bits = next(bits for bits in _DEPTHS if largest < 2**bits)
        if not white and bits < 16:
            notes.append(f"16-bit file with values up to {largest}, read as {bits}-bit (white = {2**bits - 1})")
        white = white or 2**bits - 1
        table = np.rint(np.minimum(np.arange(65536), white) * (255 / white)).astype(np.uint8)
        pixels = table[pixels]
    if not data.startswith(_JPEG_START) and _is_transparent(_decode(data, cv2.IMREAD_UNCHANGED)):
        notes.append("its transparency is ignored")
    rgb = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB)
    return Photo(rgb, "; ".join(notes))


def _check(data: bytes, path: Path) -> None:
    """Raise UserError for files that OpenCV would read without an error, but wrong."""
    if not data:
        raise UserError(f"{path}: is an empty file")
    if data.startswith(png.SIGNATURE):
        png.check(data, path)
    elif data.startswith(_JPEG_START) and not _has_end(data):
        # OpenCV would fill in what is missing: with gray, or with what was in memory, depending on its version.
        raise UserError(f"{path}: is truncated: copy it again")
    elif data.startswith(_TIFF):  # of more bits, OpenCV misreads many kinds; libtiff multiplies colors by transparency
        stored = _decode(data, cv2.IMREAD_UNCHANGED)
        if stored is not None and (stored.dtype != np.uint8 or _is_transparent(stored)):
            raise UserError(f"{path}: is a TIFF file of more than 8 bits or with transparency: save it as 8-bit RGB")
    elif data.startswith(_NETPBM) and not _PLAIN_NETPBM.match(data):  # OpenCV ignores the maximum that these state
        raise UserError(f"{path}: is a PBM, PGM, PPM or PAM file whose values do not range to 255: save it as PNG")


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    """Decode as BGR or gray; None if OpenCV cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # such as a size beyond OpenCV's bounds
        return None


def _is_transparent(pixels: np.ndarray | None) -> bool:
    """Whether any pixel is not opaque, of those that OpenCV decodes with an alpha channel, if there is one."""
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
