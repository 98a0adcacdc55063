"""Files of weights: `.pth`, `.safetensors` and `.npz` in, the last two out. What a file is, its content says.

No file's content is executed, and none of the libraries that usually write them is needed: safetensors is eight bytes,
a JSON header and numbers (https://github.com/huggingface/safetensors#format).
"""

import dataclasses
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from mtlflax.errors import UserError
from mtlflax.models.pretrained import tar_file, torch_file

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", ".npz")
_DTYPES = {
    "BF16": np.dtype(jnp.bfloat16),
    "BOOL": np.dtype(bool),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a file holds.

    Attributes:
        path: of the file.
        format: what it turned out to be.
        sha256: of the file, hexadecimal.
        tensors: name → array, as stored: names, types and layouts are the file's.
    """

    path: Path
    format: str
    sha256: str
    tensors: dict[str, np.ndarray]


def read(path: str | Path) -> Weights:
    """Reads a file of weights.

    Raises:
        UserError: there is none, or it is damaged, of another format, or asks to run code.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        kind, tensors = _parse(content)
    except ValueError as error:
        raise UserError(f"{path} is no file of weights: {error}") from error
    except Exception as error:  # damaged archives and pickles may raise anything
        raise UserError(f"{path} is damaged or was not copied to its end: {error!r}") from error
    return Weights(path, kind, hashlib.sha256(content).hexdigest(), tensors)


def write(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes float32 arrays as `.safetensors` or `.npz`, by the path's ending.

    Raises:
        UserError: another ending; the file cannot be written.
    """
    path = Path(path)
    arrays = {name: np.ascontiguousarray(value, "<f4") for name, value in tensors.items()}
    stream = io.BytesIO()
    if path.suffix == ".npz":
        np.savez(stream, allow_pickle=False, **arrays)
    elif path.suffix == ".safetensors":
        header, end = {}, 0
        for name, value in arrays.items():
            begin, end = end, end + value.nbytes
            header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": (begin, end)}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # so that the numbers are aligned
        stream.write(len(text).to_bytes(8, "little") + text)
        for value in arrays.values():
            stream.write(value.tobytes())
    else:
        raise UserError(f"{path}: give a name that ends in .safetensors or .npz")
    try:
        path.write_bytes(stream.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _parse(content: bytes) -> tuple[str, dict[str, np.ndarray]]:
    """The format and the tensors; ValueError where they cannot be had."""
    if not content:
        raise ValueError("it is empty")
    if content.startswith(b"PK"):
        archive = zipfile.ZipFile(io.BytesIO(content))
        names = archive.namelist()
        if any(name.endswith("/data.pkl") for name in names):
            return "PyTorch (zip)", torch_file.read_zip(archive)
        if names and all(name.endswith(".npy") for name in names):
            arrays = np.load(io.BytesIO(content), allow_pickle=False)
            return "NumPy (npz)", {name: arrays[name] for name in arrays.files}
        raise ValueError(f"it is an archive of {'other things' if names else 'nothing'} ({', '.join(names[:3])})")
    if content.startswith(torch_file.LEGACY_START):
        return "PyTorch (before 1.6)", torch_file.read_legacy(content)
    if content[8:9] == b"{":
        return "safetensors", _read_safetensors(content)
    if content[257:262] == b"ustar" or content.startswith(tuple(f"{name}\0".encode() for name in tar_file.MEMBERS)):
        return "PyTorch (0.1, tar)", tar_file.read_tar(content)
    if content.startswith(b"version https://git-lfs"):
        raise ValueError("it is Git LFS's pointer to one; fetch the file itself with git lfs pull")
    raise ValueError(f"it is neither PyTorch's (.pth) nor .safetensors nor .npz, but begins with {content[:16]!r}")


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    start = 8 + int.from_bytes(content[:8], "little")
    if start > len(content):
        raise ValueError("it is cut short: its header is longer than the file")
    data = memoryview(content)[start:]
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or str(entry["dtype"]) not in _DTYPES:
            raise ValueError(f"{name} is of a type that no encoder has: {entry!r}"[:200])
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not (isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape)):
            raise ValueError(f"{name} has a shape that there cannot be: {shape!r}")
        if not 0 <= begin <= end <= len(data):
            raise ValueError(f"it is cut short: {name} lies outside")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has {end - begin} bytes, which do not make {shape} of {dtype}")
        tensors[name] = np.frombuffer(data[begin:end], dtype).reshape(shape)
    return tensors
