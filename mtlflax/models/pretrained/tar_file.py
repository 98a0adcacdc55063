"""The tar archives that `torch.save` wrote in PyTorch 0.1, read as in `torch_file`: torchvision's first ResNets.

The archive has a member for the storages, one for the tensors (views of storages), and the pickle, which names tensors
by number. A network's parameters are `Parameter`s there.
"""

import io
import struct
import tarfile
from typing import Any

import numpy as np

from mtlflax.models.pretrained.torch_file import DTYPES, Storage, Tensor, Unpickler, array, state_dict

MEMBERS = ("storages", "tensors", "pickle")


class _Parameter:
    """What a pickle makes of a `Parameter`: made of its tensor, or told it afterwards with four other things."""

    def __new__(cls, tensor: Any = None, *_: Any) -> "_Parameter":
        parameter = super().__new__(cls)
        parameter.tensor = tensor
        return parameter

    def __setstate__(self, state: Any) -> None:
        if len(state) == 5:
            self.tensor = state[0]


class _TarUnpickler(Unpickler):
    """Knows two names more: types of tensors, and parameters."""

    def __init__(self, stream: io.BytesIO, tensors: dict[int, Tensor] | None = None) -> None:
        super().__init__(stream)
        self.tensors = tensors or {}

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle may name."""
        if module == "torch" and f"{name.removesuffix('Tensor')}Storage" in DTYPES:
            return name
        if (module, name) == ("torch.nn.parameter", "Parameter"):
            return _Parameter
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """A tensor, by its number."""
        return self.tensors[int(pid)]


def read_tar(content: bytes) -> dict[str, np.ndarray]:
    """Reads what `torch.save` wrote in PyTorch 0.1.

    Args:
        content: of the file.

    Returns:
        As from `torch_file.read_zip`.

    Raises:
        ValueError, Exception: as from `torch_file.read_zip`.
    """
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        if not set(MEMBERS) <= set(archive.getnames()):
            raise ValueError(f"it is a tar archive of other things ({', '.join(archive.getnames()[:3])})")
        parts = {name: archive.extractfile(name) for name in MEMBERS}
        storages, tensors, main = (io.BytesIO(part.read() if part else b"") for part in parts.values())

    blocks: dict[int, tuple[Storage, bytes]] = {}
    for _ in range(_TarUnpickler(storages).load()):
        key, _, kind = _TarUnpickler(storages).load()
        dtype, (length,) = DTYPES[kind], struct.unpack("<q", storages.read(8))
        blocks[key] = Storage(dtype, str(key), length), storages.read(length * dtype.itemsize)
    for key, root, offset, length in _TarUnpickler(storages).load():  # parts of others
        whole, block = blocks[root]
        size = whole.dtype.itemsize
        blocks[key] = Storage(whole.dtype, str(key), length), block[offset * size : (offset + length) * size]

    found: dict[int, Tensor] = {}
    of_storage = {storage.key: block for storage, block in blocks.values()}
    for _ in range(_TarUnpickler(tensors).load()):
        key, storage, _ = _TarUnpickler(tensors).load()
        (rank,) = struct.unpack("<q", tensors.read(8))
        shape, strides = (struct.unpack(f"<{rank}q", tensors.read(8 * rank)) for _ in range(2))
        (offset,) = struct.unpack("<q", tensors.read(8))
        found[key] = Tensor(blocks[storage][0], offset, shape, strides)

    loaded = _TarUnpickler(main, found).load()
    return {name: array(tensor, of_storage[tensor.storage.key]) for name, tensor in state_dict(loaded).items()}
