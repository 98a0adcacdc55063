"""Read files of weights (`.pth`, `.safetensors`, `.npz`) by their content, and write the last two.

Nothing in a file is executed, and none of the libraries that usually write them is needed: safetensors is eight bytes,
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
from mtlflax.files import write_bytes
from mtlflax.models.pretrained import torch_file

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
    """The content of a file."""

    path: Path
    format: str  # in words
    sha256: str  # of the file, hexadecimal
    tensors: dict[str, np.ndarray]  # with the names, types and layouts of the file


def read(path: str | Path) -> Weights:
    """Read a file of weights; UserError if there is none, or it is damaged, of another format, or asks to run code."""
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
        raise UserError(f"{path} is not a file of weights: {error}") from error
    except Exception as error:  # damaged archives and pickles may raise anything
        raise UserError(f"{path} is damaged or incomplete: {error!r}") from error
    return Weights(path, kind, hashlib.sha256(content).hexdigest(), tensors)


def write(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write float32 arrays as `.safetensors` or `.npz`, by the suffix of the path: whole, or not at all (UserError)."""
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
    write_bytes(path, stream.getvalue())


def _parse(content: bytes) -> tuple[str, dict[str, np.ndarray]]:
    """Return the format and the tensors; ValueError if the content is neither."""
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
        raise ValueError(f"it is an archive of {', '.join(names[:3]) or 'nothing'}")
    if content.startswith(torch_file.LEGACY_START):
        return "PyTorch (before 1.6)", torch_file.read_legacy(content)
    if content[8:9] == b"{":
        return "safetensors", _read_safetensors(content)
    if content[257:262] == b"ustar":
        raise ValueError(
            "it is a tar archive, perhaps from PyTorch 0.1, whose format is not read here: load it with PyTorch "
            "(torch.load) and save it again (torch.save)"
        )
    if content.startswith(b"version https://git-lfs"):
        raise ValueError("it is a Git LFS pointer; fetch the file itself with git lfs pull")
    raise ValueError(f"it is neither PyTorch (.pth) nor .safetensors nor .npz, and begins with {content[:16]!r}")


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
            raise ValueError(f"{name} has a type that is not known here: {entry!r}"[:200])
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not (isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape)):
            raise ValueError(f"{name} has an impossible shape: {shape!r}")
        if not 0 <= begin <= end <= len(data):
            raise ValueError(f"it is cut short: {name} is outside of it")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has {end - begin} bytes, which is not {shape} of {dtype}")
        tensors[name] = np.frombuffer(data[begin:end], dtype).reshape(shape)
    return tensors
