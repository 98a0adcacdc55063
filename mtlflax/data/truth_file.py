"""Read ground truth from a user's file, in any format that keeps numbers: exactly as they are stored, or not at all."""

import io
import re
import struct
import tempfile
import tokenize
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np

from mtlflax.data import png
from mtlflax.data.stored import stored_otherwise
from mtlflax.errors import UserError
from mtlflax.files import read_bytes

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".npz", ".pfm", ".exr", ".webp", ".pgm", ".ppm", ".bmp")
_GRAY, _PALETTE = 0, 3  # PNG's color types
# What NumPy raises over damaged files, by where the damage is.
_DAMAGE = (OSError, ValueError, EOFError, KeyError, MemoryError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)
_LOSSY = "changes the numbers that it stores: save them as PNG, TIFF or .npy"
_PFM = re.compile(rb"P([fF])\s+(\d+)\s+(\d+)\s+(-?[\d.]+(?:[eE][+-]?\d+)?)\s")


def read(path: Path, *, colors: bool = False, palette: bool = False) -> np.ndarray:
    """Return what is stored: [H, W] or [H, W, channels], colors as RGB, of any NumPy number type.

    Opacity is left out. A `.npz` holds one array. EXR files need the package OpenEXR.

    Args:
        path: the file.
        colors: whether pictures in RGB stay so where all are gray; else a picture whose channels are all alike counts
            as gray.
        palette: whether a PNG with a palette gives its colors, rather than the indices.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, is of a kind that changes values (JPEG, lossy
            WebP), or is no array of real numbers with two or three axes.
    """
    data = read_bytes(path)
    if not data:
        raise UserError(f"{path}: is an empty file")
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        values = _numpy(data, path)
    elif suffix == ".exr":
        values = _exr(data, path)
    elif data.startswith(png.SIGNATURE):
        values = _png(data, path, colors, palette)
    else:
        values = _other(data, path, colors)
    real = np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)
    if values.ndim not in (2, 3) or not values.size or not (real or values.dtype == bool):
        raise UserError(
            f"{path}: holds {values.dtype} {list(values.shape)}, not numbers [height, width] or with channels"
        )
    return values.astype(np.uint8) if values.dtype == bool else values


def _png(data: bytes, path: Path, colors: bool, palette: bool) -> np.ndarray:
    png.check(data, path)
    bits, color_type = data[24:26]
    if color_type == _PALETTE and palette:
        return _plain(_decode(data, path), colors=True)
    # OpenCV turns indices into colors, and scales gray of 1, 2 and 4 bits to 8: so the file is relabeled as gray, and
    # the scaling undone.
    values = _decode(_as_gray(data) if color_type == _PALETTE else data, path)
    if color_type in (_GRAY, _PALETTE) and bits < 8:
        values //= 255 // (2**bits - 1)
    return _plain(values, colors)


def _as_gray(data: bytes) -> bytes:
    """The same PNG file, called gray: the indices of its palette become its values."""
    parts, start = [png.SIGNATURE], len(png.SIGNATURE)
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        content = data[start + 8 : start + 8 + length]
        if kind == b"IHDR":
            content = content[:9] + bytes([_GRAY]) + content[10:]
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            parts += [struct.pack(">I4s", length, kind), content, struct.pack(">I", zlib.crc32(kind + content))]
        if kind == b"IEND":
            break
        start += length + 12
    return b"".join(parts)


def _other(data: bytes, path: Path, colors: bool) -> np.ndarray:
    if data.startswith(b"\xff\xd8"):
        raise UserError(f"{path}: is a JPEG file, which {_LOSSY}")
    if data[8:12] == b"WEBP":
        if data[12:16] == b"VP8 " or (data[12:16] == b"VP8X" and b"VP8L" not in data):
            raise UserError(f"{path}: is a lossy WebP file, which {_LOSSY}")
        if int.from_bytes(data[4:8], "little") + 8 > len(data):
            raise UserError(f"{path}: is truncated: copy it again")
    if header := _PFM.match(data):
        return _pfm(data, header, path)
    if wrong := stored_otherwise(data):
        raise UserError(f"{path}: is {wrong}, which {_LOSSY}")
    return _plain(_decode(data, path), colors)


def _pfm(data: bytes, header: re.Match[bytes], path: Path) -> np.ndarray:
    """A PFM file: rows from below; the sign of its scale tells the order of bytes, and its size nothing here."""
    channels, width, height = (3 if header[1] == b"F" else 1), int(header[2]), int(header[3])
    count = channels * width * height
    if len(data) < header.end() + 4 * count:
        raise UserError(f"{path}: is truncated: copy it again")
    order = "<f4" if header[4].startswith(b"-") else ">f4"
    rows = np.frombuffer(data, order, count, header.end()).reshape(height, width, channels)[::-1].astype(np.float32)
    return _plain(rows[..., ::-1]) if channels == 3 else np.ascontiguousarray(rows[..., 0])


def _decode(data: bytes, path: Path) -> np.ndarray:
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # such as a size beyond OpenCV's bounds
        values = None
    if values is None:
        raise UserError(f"{path}: cannot be decoded: is it whole, and of one of the kinds {', '.join(SUFFIXES)}?")
    return values


def _plain(values: np.ndarray, colors: bool = False) -> np.ndarray:
    """OpenCV's BGR or BGRA as RGB, or as [H, W] if all colors are gray, unless `colors`."""
    if values.ndim == 2:
        return values
    blue, green, red = (values[..., i] for i in (0, 1, 2)) if values.shape[2] >= 3 else (values[..., 0],) * 3
    nan = values.dtype.kind == "f"
    keeps = colors and values.shape[2] >= 3
    alike = not keeps and np.array_equal(red, green, equal_nan=nan) and np.array_equal(green, blue, equal_nan=nan)
    return np.ascontiguousarray(red) if alike else np.stack([red, green, blue], axis=-1)


def _numpy(data: bytes, path: Path) -> np.ndarray:
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        if len(found.files) != 1:
            raise ValueError(f"it holds {len(found.files)} arrays ({', '.join(found.files)}), not one")
        return found[found.files[0]]
    except _DAMAGE as error:
        raise UserError(f"{path}: cannot be read as a NumPy array: {error}") from error


def _exr(data: bytes, path: Path) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError as error:
        raise UserError(f"{path}: EXR files need a reader: pip install OpenEXR") from error
    try:
        # OpenEXR reads files of this machine alone.
        with tempfile.NamedTemporaryFile(suffix=".exr") as copy:
            copy.write(data)
            copy.flush()
            file = OpenEXR.File(copy.name)
            channels = file.channels()
            names = [name for name in channels if name in ("RGB", "RGBA", "Y", "Z", "V", "R")] or list(channels)
            return np.asarray(channels[names[0]].pixels)
    except (RuntimeError, OSError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path}: cannot be read as an EXR file: {error}") from error
