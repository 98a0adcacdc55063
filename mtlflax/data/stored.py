"""Kinds of TIFF and BMP files in which other numbers are stored than OpenCV reads from them."""

import struct

_BITS, _COMPRESSION, _PHOTOMETRIC = 258, 259, 262  # TIFF's tags
_JPEG, _PALETTE = (6, 7), 3
_SHORT = 3  # the type of a tag's value


def stored_otherwise(data: bytes) -> str:
    """Return what a file is, if reading it would change the numbers that it stores; "" if not, or for other kinds."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data)
    if data[:2] == b"BM" and len(data) > 54:
        return _bmp(data)
    return ""


def _tiff(data: bytes) -> str:
    order = "<" if data[:2] == b"II" else ">"
    tags = {_BITS: 1}  # what it is unless the file says otherwise
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for i in range(count):
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, start + 2 + 12 * i)
            if tag in (_BITS, _COMPRESSION, _PHOTOMETRIC) and kind == _SHORT:
                # Of several channels, the bits stand elsewhere.
                tags[tag] = struct.unpack_from(f"{order}H", data, start + 10 + 12 * i)[0] if number == 1 else 8
    except struct.error:
        return ""  # it is damaged: decoding says so
    if tags.get(_COMPRESSION) in _JPEG:
        return "a TIFF file compressed as JPEG"
    if tags.get(_PHOTOMETRIC) == _PALETTE:
        return "a TIFF file with a palette"
    return f"a TIFF file of {tags[_BITS]} bits" if tags[_BITS] < 8 else ""


def _bmp(data: bytes) -> str:
    (bits,) = struct.unpack_from("<H", data, 28)
    if bits > 8:
        return ""
    size, used = struct.unpack_from("<I", data, 14)[0], struct.unpack_from("<I", data, 46)[0]
    palette = data[14 + size : 14 + size + 4 * (used or 2**bits)]
    gray = all(palette[4 * i : 4 * i + 3] == bytes([i]) * 3 for i in range(len(palette) // 4))
    return "" if bits == 8 and gray else "a BMP file with a palette"
