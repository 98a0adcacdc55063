"""PyTorch's `.pth` files, read without PyTorch and without running what is in them.

Such a file is a pickle, and a pickle is a program: it may name any Python function and have it called. The reader here
knows the few names that a dictionary of tensors needs and refuses any other before it is looked up. Two formats of
`torch.save` are read here: the zip archive (since PyTorch 1.6) and the sequence of pickles before it; `tar_file` reads
the one before that.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

# How the older format begins: a pickle of this number.
LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LEGACY_VERSION = 1001

DTYPES = {
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "BoolStorage": np.dtype(bool),
    "ByteStorage": np.dtype(np.uint8),
    "CharStorage": np.dtype(np.int8),
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "IntStorage": np.dtype(np.int32),
    "LongStorage": np.dtype(np.int64),
    "ShortStorage": np.dtype(np.int16),
}
# Training scripts put the state dict beside the epoch and the optimiser's state, under one of these.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class Storage(NamedTuple):
    """A block of numbers of which tensors are views; the numbers lie outside the pickle."""

    dtype: np.dtype
    key: str
    length: int


class Tensor(NamedTuple):
    """A view of a storage."""

    storage: Storage
    offset: int  # this and the strides count elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Unpickler(pickle._Unpickler):
    """Gives `Tensor` for tensors; knows nothing that could do harm.

    Python's own unpickler: the one in C takes gigabytes of memory where a damaged file says so.

    Attributes:
        storages: those met so far, by key.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle may name; functions are made anew, so that what it sets on them dies with it."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in DTYPES:
            return name
        if module == "torch._utils":
            if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
                return lambda *arguments: Tensor(*arguments[:4])
            if name == "_rebuild_parameter":
                return lambda tensor, *arguments: tensor
        raise ValueError(
            f"it asks for {module}.{name}, which tensors have no need of; nothing of it was run. If you trust it, load "
            "it with PyTorch and save the tensors alone: torch.save(model.state_dict(), FILE)"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """What stands for a storage: ("storage", its class, its key, the device, how many numbers)."""
        kind, storage, key, _, length, *view = pid
        if kind != "storage" or storage not in DTYPES or any(view):
            raise ValueError("it has tensors of a kind that is not known here")
        self.storages[key] = Storage(DTYPES[storage], key, length)
        return self.storages[key]


def read_zip(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Reads what `torch.save` writes since PyTorch 1.6.

    Args:
        archive: the file, opened.

    Returns:
        The tensors by name, of a state dict or of a checkpoint that has one under a usual key. Views of read-only
        memory.

    Raises:
        ValueError: it holds something else, asks for what tensors have no need of, or is damaged.
        Exception: it is damaged, in one of the ways that pickles and archives have their own errors for.
    """
    mains = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(mains) != 1:
        raise ValueError(f"it should hold one data.pkl, in one folder, and holds {len(mains)}")
    main = mains[0]
    folder = main.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist():
        _check_byte_order(archive.read(f"{folder}byteorder") == b"little")
    tensors = state_dict(Unpickler(io.BytesIO(archive.read(main))).load())
    keys = {tensor.storage.key for tensor in tensors.values()}
    blocks = {key: archive.read(f"{folder}data/{key}") for key in keys}
    return {name: array(tensor, blocks[tensor.storage.key]) for name, tensor in tensors.items()}


def read_legacy(content: bytes) -> dict[str, np.ndarray]:
    """Reads what `torch.save` wrote before PyTorch 1.6, and does with `_use_new_zipfile_serialization=False`.

    Args:
        content: of the file.

    Returns:
        As from `read_zip`.

    Raises:
        ValueError, Exception: as from `read_zip`.
    """
    stream = io.BytesIO(content)
    _, version, system = (Unpickler(stream).load() for _ in range(3))
    if version != _LEGACY_VERSION:
        raise ValueError(f"it is of the format's version {version}, not {_LEGACY_VERSION}")
    _check_byte_order(system["little_endian"])
    unpickler = Unpickler(stream)
    tensors = state_dict(unpickler.load())
    blocks = {}
    for key in Unpickler(stream).load():
        stream.seek(8, io.SEEK_CUR)  # the number of elements, which the pickle gives too
        storage = unpickler.storages[key]
        blocks[key] = stream.read(storage.length * storage.dtype.itemsize)
    return {name: array(tensor, blocks[tensor.storage.key]) for name, tensor in tensors.items()}


def state_dict(loaded: Any) -> dict[str, Tensor]:
    """The tensors by name in what a pickle gave."""
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    named = loaded.items() if isinstance(loaded, Mapping) else ()
    found = {k: t for k, v in named if isinstance(t := getattr(v, "tensor", v), Tensor)}  # of parameters, theirs
    if not found or not all(isinstance(name, str) for name in found):
        inside = ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) else f"a {type(loaded).__name__.strip('_')}"
        raise ValueError(f"it holds no tensors by name, but {inside[:100]}: save model.state_dict()")
    return found


def array(tensor: Tensor, block: bytes) -> np.ndarray:
    """The view of its storage that a tensor is; ValueError where it would reach beyond it."""
    storage, offset, shape, strides = tensor
    size = storage.dtype.itemsize
    numbers = (offset, *shape, *strides)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a tensor's shape or strides are not natural numbers")
    # In Python's integers, which do not overflow: what a file says here must not lead outside the block.
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    if (last + 1) * size > len(block):
        raise ValueError("it is cut short: a tensor's numbers are not all there")
    return np.ndarray(shape, storage.dtype, block, offset * size, [stride * size for stride in strides])


def _check_byte_order(little_endian: bool) -> None:
    if not little_endian:
        raise ValueError("it was written on a machine of the other byte order")
