"""The range of a picture's values, and its scaling to 8 bits.

A 16-bit file often holds 10, 12 or 14 bits of a sensor: its white is 4095, not 65535. Some formats state which.
"""

import re

import numpy as np

from mtlflax.data import png, tiff

# The bit depths of sensors, and of 8-bit pictures stored in 16 bits.
_DEPTHS = (8, 10, 12, 14, 16)
# The magic number, width, height and maximum, with spaces and comments between them.
_PNM_HEADER = re.compile(rb"P([2356])" + 3 * rb"(?:\s|#[^\n]*\n)+(\d+)")
_JPEG2000_START = b"\xff\x4f\xff\x51"  # start of codestream, image and tile size
_JPEG2000_DEPTH = 42  # offset of the first component's precision from there


def to_8_bits(pixels: np.ndarray, data: bytes) -> tuple[np.ndarray, str]:
    """Scale pixels to 8 bits.

    Floating-point ones must be between 0 and 1. Of integers, white is what the file states, unless that is impossible
    (0, or exceeded by pixels); else 255 for 8 bits, and the smallest of 8, 10, 12, 14, 16 bits that holds wider ones.

    Args:
        pixels: as OpenCV decodes them, of any shape.
        data: the file's content; a PNG file has passed `png.check`.

    Returns:
        uint8 pixels, and a note if their range was guessed to be less than 16 bits, else "".

    Raises:
        ValueError: the pixels have another type or range; the message says which.
    """
    if np.issubdtype(pixels.dtype, np.floating):
        if not np.isfinite(pixels).all():
            raise ValueError("has values that are NaN or infinite")
        if pixels.min() < 0 or pixels.max() > 1:
            raise ValueError(f"has values from {pixels.min():.4g} to {pixels.max():.4g}, where 0 to 1 is needed")
        return np.rint(pixels * 255).astype(np.uint8), ""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"has values of type {pixels.dtype}")
    largest, note = int(pixels.max()), ""
    maximum = _stated_maximum(data, pixels)
    if not maximum or not largest <= maximum <= 65535:
        bits = 8 if pixels.dtype == np.uint8 else next(bits for bits in _DEPTHS if largest < 2**bits)
        maximum = 2**bits - 1
        if bits < 8 * pixels.itemsize:
            note = f"16-bit file with values up to {largest}, read as {bits}-bit (white = {maximum})"
    return np.rint(np.arange(maximum + 1) * (255 / maximum)).astype(np.uint8)[pixels], note


def _stated_maximum(data: bytes, pixels: np.ndarray) -> int | None:
    """The value of white that a file states, or None; the 16 bits that a value is stored in are no statement."""
    if match := _PNM_HEADER.match(data):
        maximum = int(match[4])
        scaled_by_opencv = match[1] in b"23" and maximum < 256
        return None if scaled_by_opencv else maximum
    if pixels.dtype != np.uint16:
        return None
    if data.startswith(png.SIGNATURE):
        bits = png.header(data).significant_bits
        if bits is None:
            return None
        # The specification has significant bits shifted up to fill 16 bits; some writers leave them low.
        return 2**bits - 1 if pixels.max() < 2**bits else 65535
    if data.startswith(tiff.SIGNATURES):
        return tiff.tags(data).get(tiff.MAX_SAMPLE_VALUE)
    start = data.find(_JPEG2000_START, 0, 4096)
    if 0 <= start < len(data) - _JPEG2000_DEPTH:
        bits = (data[start + _JPEG2000_DEPTH] & 0x7F) + 1
        return 2**bits - 1 if bits < 16 else None
    return None
