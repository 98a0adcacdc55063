"""Read PyTorch's `.pth` files without PyTorch and without running code in them.

Such a file is a pickle, and a pickle is a program: it may name any Python function and have it called. This reader
knows the few names that a dictionary of tensors needs, and refuses any other before it is looked up. It reads two
formats of `torch.save`: the zip archive (since PyTorch 1.6) and the sequence of pickles before it (since 0.2).
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
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
# Training scripts put the state dict beside the epoch and the state of the optimizer, under one of these.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class Storage(NamedTuple):
    """A block of numbers of which tensors are views; the numbers are outside the pickle."""

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
    """An unpickler that returns `Tensor` for tensors and knows nothing harmful.

    It is Python's own: the one in C allocates gigabytes of memory if a damaged file asks for it.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, Storage] = {}  # those read so far, by key

    def find_class(self, module: str, name: str) -> Any:
        """Return what the pickle may name; functions are new ones, so that attributes it sets on them do no harm."""
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
            f"it asks for {module}.{name}, which tensors do not need; nothing was run. If you trust it, load "
            "it with PyTorch and save only the tensors: torch.save(model.state_dict(), FILE)"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """Return a storage, given ("storage", its class, its key, the device, its length)."""
        kind, storage, key, _, length, *view = pid
        if kind != "storage" or storage not in DTYPES or any(view):
            raise ValueError("it has tensors of an unknown kind")
        self.storages[key] = Storage(DTYPES[storage], key, length)
        return self.storages[key]


def read_zip(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Read what `torch.save` writes since PyTorch 1.6: the tensors by name, see `state_dict`, in read-only memory.

    ValueError if it holds something else, asks for what tensors do not need, or is damaged; a damaged pickle or archive
    may raise errors of its own.
    """
    mains = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(mains) != 1:
        raise ValueError(f"it should hold one data.pkl, in one folder, and holds {len(mains)}")
    folder = mains[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist():
        _check_byte_order(archive.read(f"{folder}byteorder") == b"little")
    tensors = state_dict(Unpickler(io.BytesIO(archive.read(mains[0]))).load())
    keys = {tensor.storage.key for tensor in tensors.values()}
    blocks = {key: archive.read(f"{folder}data/{key}") for key in keys}
    return {name: array(tensor, blocks[tensor.storage.key]) for name, tensor in tensors.items()}


def read_legacy(content: bytes) -> dict[str, np.ndarray]:
    """Read what `torch.save` wrote before 1.6 (now with `_use_new_zipfile_serialization=False`), as `read_zip`."""
    stream = io.BytesIO(content)
    _, version, system = (Unpickler(stream).load() for _ in range(3))
    if version != _LEGACY_VERSION:
        raise ValueError(f"it has version {version} of the format, not {_LEGACY_VERSION}")
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
    """Return the tensors by name in an unpickled state dict, or in a checkpoint's under a usual key.

    In other nested dictionaries, names are joined by dots: DINO's "teacher.backbone.conv1.weight".
    """
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    found = dict(_named(loaded, ""))
    if not found:
        inside = ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) else f"a {type(loaded).__name__.strip('_')}"
        raise ValueError(f"it holds no tensors by name, but {inside[:100]}: save model.state_dict()")
    return found


def _named(loaded: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in loaded.items() if isinstance(loaded, Mapping) else ():
        if not isinstance(key, str):  # the state of an optimizer counts its parameters
            continue
        if isinstance(value, Tensor):
            yield prefix + key, value
        else:
            yield from _named(value, f"{prefix}{key}.")


def array(tensor: Tensor, block: bytes) -> np.ndarray:
    """Return a tensor as a view of its storage; ValueError if it would reach beyond it."""
    storage, offset, shape, strides = tensor
    size = storage.dtype.itemsize
    numbers = (offset, *shape, *strides)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a tensor has an impossible shape or impossible strides")
    # Python's integers do not overflow: nothing in a file must lead outside the block.
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    if (last + 1) * size > len(block):
        raise ValueError("it is cut short: numbers of a tensor are missing")
    return np.ndarray(shape, storage.dtype, block, offset * size, [stride * size for stride in strides])


def _check_byte_order(little_endian: bool) -> None:
    if not little_endian:
        raise ValueError("it was written on a big-endian machine")
