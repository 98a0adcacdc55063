"""Reading a user's pictures, of any format that OpenCV knows: whole, or an error that says why not."""

import re
from pathlib import Path

import cv2
import numpy as np

from mtlflax.data import png
from mtlflax.errors import UserError

# A JPEG marker: FF and its code. FF 00 is a byte of data; 01 and D0 to D8 stand alone and end nothing.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_JPEG_START, _JPEG_END = b"\xff\xd8", 0xD9


def read(path: Path) -> np.ndarray:
    """Reads a picture, turned upright as its EXIF data say.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        UserError: the file cannot be read, is truncated, or is no picture.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith(png.SIGNATURE):
        png.check(data, path)
    elif data.startswith(_JPEG_START) and not _has_end(data):
        # OpenCV would fill up what is missing: with gray, or with what was in memory, as its version has it.
        raise UserError(f"{path}: is truncated: copy it again")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or a size beyond OpenCV's bounds
        picture = None
    if picture is None:
        raise UserError(f"{path}: is not a picture that can be read")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _has_end(data: bytes) -> bool:
    """Whether a JPEG file has its end mark: after the picture, not in a thumbnail within, whatever else may follow."""
    position = len(_JPEG_START)
    while marker := _JPEG_MARKER.search(data, position):
        position = marker.end()
        if data[position - 1] == _JPEG_END:
            return True
        position += int.from_bytes(data[position : position + 2])  # over the segment; coded data may follow it
    return False
