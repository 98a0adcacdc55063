"""The content of picture files of kinds that OpenCV and PIL do not write."""

import struct

import cv2
import numpy as np


def tiff(pixels: np.ndarray, photometric: int, *, order: str = "<", planar: int = 1, **tags: int | list[int]) -> bytes:
    """An uncompressed TIFF file; `tags` are `t281=4095`, all SHORT."""
    height, width = pixels.shape[:2]
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    stored = pixels if planar == 1 else np.moveaxis(pixels, 2, 0)
    data = stored.astype(pixels.dtype.newbyteorder(order)).tobytes()
    strips = 1 if planar == 1 else samples
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    length = len(data) // strips
    values = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * samples, 259: [1], 262: [photometric]}
    values |= {273: [8 + length * i for i in range(strips)], 277: [samples], 278: [height], 279: [length] * strips}
    values |= {284: [planar], 339: [kind] * samples}
    values |= {int(name[1:]): value if isinstance(value, list) else [value] for name, value in tags.items()}
    entries, beyond = b"", b""
    start = 8 + len(data) + 2 + 12 * len(values) + 4
    for tag, value in sorted(values.items()):
        content = struct.pack(f"{order}{len(value)}{'I' if tag in (273, 279) else 'H'}", *value)
        if len(content) > 4:
            content, beyond = struct.pack(f"{order}I", start + len(beyond)), beyond + content
        entries += struct.pack(f"{order}HHI", tag, 4 if tag in (273, 279) else 3, len(value)) + content.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(values)) + entries + bytes(4) + beyond


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of gray, BGR or BGRA."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def pnm(kind: int, pixels: np.ndarray, maximum: int) -> bytes:
    """A PGM or PPM file: kinds 2 and 3 are text, 5 and 6 binary."""
    head = f"P{kind}\n# a comment, 1 2 3\n{pixels.shape[1]} {pixels.shape[0]}\n{maximum}\n".encode()
    if kind in (2, 3):
        return head + " ".join(map(str, pixels.ravel())).encode()
    return head + pixels.astype(">u2" if maximum > 255 else "u1").tobytes()
