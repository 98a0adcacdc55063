"""The tags of a TIFF file, and the kinds of TIFF files whose pixels OpenCV gets wrong."""

import struct

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # + is BigTIFF, which has 64-bit offsets
MAX_SAMPLE_VALUE = 281
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA_SAMPLES, _FORMAT = 254, 258, 262, 277, 284, 338, 339
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # BYTE, SHORT, LONG, LONG8; the others hold nothing needed here
_GRAY, _RGB = 1, 2
_UNSIGNED, _FLOAT = 1, 3


def tags(data: bytes) -> dict[int, int]:
    """Return the integer tags of a TIFF file's first picture, number → first value; those before any damage."""
    order = "<" if data.startswith(b"II") else ">"
    offset_type, count_type = ("Q", "Q") if data[2:4] in (b"+\0", b"\0+") else ("I", "H")
    width = struct.calcsize(offset_type)
    found: dict[int, int] = {}
    try:
        (position,) = struct.unpack_from(order + offset_type, data, width)
        (entries,) = struct.unpack_from(order + count_type, data, position)
        position += struct.calcsize(count_type)
        for _ in range(entries):
            tag, kind, count = struct.unpack_from(order + "HH" + offset_type, data, position)
            value_at = position + 4 + width
            if kind in _TYPES:
                if count * struct.calcsize(_TYPES[kind]) > width:  # the values lie elsewhere
                    (value_at,) = struct.unpack_from(order + offset_type, data, value_at)
                (found[tag],) = struct.unpack_from(order + _TYPES[kind], data, value_at)
            position += 4 + 2 * width
    except struct.error:  # beyond the end of the file
        pass
    return found


def is_float(tags: dict[int, int]) -> bool:
    """Whether the pixels are floating-point numbers."""
    return tags.get(_FORMAT) == _FLOAT


def has_alpha(tags: dict[int, int]) -> bool:
    """Whether there are channels besides the colors."""
    return _EXTRA_SAMPLES in tags


def misread(tags: dict[int, int]) -> str:
    """Say what about a file OpenCV does not take into account; "" if nothing.

    Pixels of up to 8 bits are converted to RGB by libtiff, which knows every kind of file. OpenCV reads those of more
    bits as they are stored, as if they were gray or interleaved RGB.
    """
    if tags.get(_SUBFILE_TYPE, 0) & 1:
        return "its first picture is a thumbnail"
    if tags.get(_FORMAT, _UNSIGNED) not in (_UNSIGNED, _FLOAT):
        return "signed values"
    samples = tags.get(_SAMPLES, 1)
    if tags.get(_BITS, 1) > 8:
        if (tags.get(_PHOTOMETRIC), samples) not in ((_GRAY, 1), (_RGB, 3), (_RGB, 4)):
            return "more than 8 bits, and neither gray nor RGB"
        if tags.get(_PLANAR) == 2 and samples > 1:
            return "more than 8 bits, in separate color planes"
    return ""
