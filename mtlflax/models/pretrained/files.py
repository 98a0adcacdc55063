"""Read files of weights (`.pth`, `.safetensors`, `.npz`) by their content, and write the last two.

Nothing in a file is executed, and PyTorch is not needed.
"""

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from mtlflax.errors import UserError
from mtlflax.files import read_bytes, write_bytes
from mtlflax.models.pretrained import torch_file

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", ".npz")
# Those of safetensors; its own NumPy reader lacks BF16.
_DTYPES = {"BF16": jnp.bfloat16, "BOOL": "?", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2"}
_DTYPES |= {"I32": "<i4", "I64": "<i8", "U8": "u1"}


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
    content = read_bytes(path)
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
        stream.write(safetensors.numpy.save(arrays))
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
    tensors = {}
    for name, entry in safetensors.deserialize(content):
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{name} has a type that is not known here: {entry['dtype']}")
        tensors[name] = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors
