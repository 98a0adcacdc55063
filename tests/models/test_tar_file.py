"""PyTorch 0.1's tar archives, written here as its `torch.save` did, read as today's `torch.load` reads them."""

import io
import pickle
import struct
import tarfile
from collections import OrderedDict

import numpy as np
import pytest

from mtlflax.errors import UserError
from mtlflax.models import pretrained

torch = pytest.importorskip("torch")


class Parameter:
    """Pickled as PyTorch 0.1's: made of its tensor, or told it afterwards."""

    def __init__(self, tensor, told):
        self.tensor, self.told = tensor, told

    def __reduce__(self):
        hooks = OrderedDict()
        if self.told:
            return torch.nn.parameter.Parameter, (), (self.tensor, None, hooks, True, False)
        return torch.nn.parameter.Parameter, (self.tensor,), (True, False, hooks)


def tar(content, storages, tensors, views=()):
    """Storages: number → array; tensors: number → (storage, type, shape, strides, offset), all counting elements."""
    of_storages, of_tensors, main = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pickle.dump(len(storages), of_storages, 2)
    for key, numbers in storages.items():
        kind = {"float32": torch.FloatStorage, "float16": torch.HalfStorage, "int64": torch.LongStorage}[
            numbers.dtype.name
        ]
        pickle.dump((key, "cpu", kind), of_storages, 2)
        of_storages.write(struct.pack("<q", numbers.size) + numbers.tobytes())
    pickle.dump(list(views), of_storages, 2)

    pickle.dump(len(tensors), of_tensors, 2)
    for key, (storage, kind, shape, strides, offset) in tensors.items():
        # (key, storage, torch.<kind>): today's PyTorch cannot pickle the last.
        of_tensors.write(b"\x80\x02K%cK%cctorch\n%b\n\x87." % (key, storage, kind))
        of_tensors.write(struct.pack(f"<q{len(shape)}q{len(shape)}qq", len(shape), *shape, *strides, offset))

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return item.number if isinstance(item, Number) else None

    Pickler(main, 2).dump(content)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, part in {"sys_info": None, "pickle": main, "tensors": of_tensors, "storages": of_storages}.items():
            entry = tarfile.TarInfo(name)
            body = part.getvalue() if part else pickle.dumps({"little_endian": True}, 2)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return stream.getvalue()


class Number:
    def __init__(self, number):
        self.number = number


STORAGES = {1: np.arange(24, dtype=np.float32), 2: np.arange(6, dtype=np.float16), 3: np.arange(4)}
VIEWS = [(4, 1, 10, 8)]
TENSORS = {
    5: (1, b"FloatTensor", (2, 3, 4), (12, 4, 1), 0),
    6: (1, b"FloatTensor", (4, 2), (1, 4), 3),
    7: (2, b"HalfTensor", (5,), (1,), 1),
    8: (3, b"LongTensor", (), (), 2),
    9: (4, b"FloatTensor", (2, 3), (4, 1), 1),
}
CONTENT = OrderedDict(
    made=Parameter(Number(5), told=False),
    told=Parameter(Number(6), told=True),
    half=Number(7),
    count=Number(8),
    view=Number(9),
)


def test_it_is_read_as_pytorch_reads_it(tmp_path):
    path = tmp_path / "resnet50-19c8e357.pth"
    path.write_bytes(tar(CONTENT, STORAGES, TENSORS, VIEWS))
    weights = pretrained.read(path)
    theirs = torch.load(path, weights_only=False)
    assert weights.format == "PyTorch (0.1, tar)"
    assert weights.tensors.keys() == theirs.keys() == CONTENT.keys()
    for name, value in theirs.items():
        assert weights.tensors[name].dtype == value.detach().numpy().dtype
        np.testing.assert_array_equal(weights.tensors[name], value.detach().numpy(), err_msg=name)


def test_a_checkpoint_is_unwrapped(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(tar({"epoch": 3, "state_dict": CONTENT}, STORAGES, TENSORS, VIEWS))
    assert pretrained.read(path).tensors.keys() == CONTENT.keys()


@pytest.mark.parametrize(
    ("content", "tensors", "said"),
    [
        ({"a": print}, TENSORS, "asks for __builtin__.print.*nothing of it was run"),
        (CONTENT, TENSORS | {5: (1, b"FloatTensor", (2, 3, 5), (12, 4, 1), 0)}, "cut short"),
        (CONTENT, TENSORS | {5: (1, b"FloatTensor", (2,), (-1,), 3)}, "natural numbers"),
        (CONTENT, {}, "damaged"),
        (CONTENT, TENSORS | {5: (77, b"FloatTensor", (2,), (1,), 0)}, "damaged"),
    ],
)
def test_what_is_wrong_with_one_is_said(content, tensors, said, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(tar(content, STORAGES, tensors, VIEWS))
    with pytest.raises(UserError, match=said):
        pretrained.read(path)
