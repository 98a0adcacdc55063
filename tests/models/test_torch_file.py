"""`.pth` files as torch.save writes them, damaged ones, and ones that would do harm."""

import argparse
import io
import os
import pickle
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mtlflax.errors import UserError
from mtlflax.models import pretrained

torch = pytest.importorskip("torch")

FORMATS = {"PyTorch (zip)": True, "PyTorch (before 1.6)": False}


@pytest.fixture(params=FORMATS)
def save(request, tmp_path):
    """Saves as one of the two formats; returns the path."""

    def save(content) -> Path:
        path = tmp_path / "weights.pth"
        torch.save(content, path, _use_new_zipfile_serialization=FORMATS[request.param])
        return path

    save.format = request.param
    return save


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int64", "int16", "uint8", "bool"])
def test_every_type_is_read(dtype, save):
    tensor = torch.arange(-6, 6).reshape(3, 4).to(getattr(torch, dtype))
    weights = pretrained.read(save({"a": tensor, "scalar": torch.tensor(2, dtype=getattr(torch, dtype))}))
    assert weights.format == save.format
    assert weights.tensors["a"].dtype == (jnp.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))
    assert weights.tensors["scalar"].shape == ()
    np.testing.assert_array_equal(weights.tensors["a"].astype(np.float64), tensor.double().numpy())


def test_views_of_one_storage_are_read(save):
    numbers = torch.arange(60.0)
    grid = numbers.reshape(3, 4, 5)
    views = {
        "whole": grid,
        "transposed": grid.permute(2, 0, 1),
        "strided": numbers[3::7],
        "cut": grid[1:, ::2, 1:4],
        "expanded": numbers[7:8].expand(6),
        "empty": grid[:, 4:],
        "parameter": torch.nn.Parameter(grid[2]),
    }
    tensors = pretrained.read(save(views)).tensors
    assert tensors.keys() == views.keys()
    for name, view in views.items():
        np.testing.assert_array_equal(tensors[name], view.detach().numpy(), err_msg=name)


def test_a_modules_state_dict_is_read(save):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    tensors = pretrained.read(save(module.state_dict())).tensors  # an OrderedDict with an attribute
    assert tensors.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(tensors[name], value.numpy())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_a_training_scripts_checkpoint_is_read(wrapper, save):
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.double().parameters())
    module(torch.ones(3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    content = {"epoch": 3, "arch": "x", "optimizer": optimizer.state_dict(), wrapper: module.state_dict(), "best": 0.5}
    tensors = pretrained.read(save(content)).tensors
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(tensors[name], value.numpy())
    assert tensors.keys() == module.state_dict().keys()


def test_nested_dictionaries_are_read_with_dotted_names(save):
    """DINO's checkpoint: two networks, and an optimizer that counts its parameters."""
    weight = torch.arange(6.0).reshape(2, 3)
    networks = {"student": {"module.backbone.fc.weight": weight}, "teacher": {"backbone.fc.weight": 2 * weight}}
    tensors = pretrained.read(save({**networks, "optimizer": {"state": {0: {"exp_avg": weight}}}, "epoch": 3})).tensors
    assert tensors.keys() == {"student.module.backbone.fc.weight", "teacher.backbone.fc.weight"}
    np.testing.assert_array_equal(tensors["teacher.backbone.fc.weight"], 2 * weight.numpy())


class Harm:
    """What a malicious file pickles: a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_in_a_file_is_run(save, tmp_path):
    mark = tmp_path / "harm"
    path = save({"weight": torch.ones(2), "extra": Harm(os.mkdir, str(mark))})
    with pytest.raises(UserError, match=r"posix\.mkdir.*nothing was run.*torch\.save"):
        pretrained.read(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the file does what it is meant to
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        ({"weight": torch.ones(1), "args": argparse.Namespace(lr=1)}, r"argparse\.Namespace"),
        ({"weight": torch.ones(1), "call": Harm(eval, "1")}, r"eval"),
        ({"epoch": 3, "net": {"weight": 1.0, 0: torch.ones(1)}}, r"no tensors by name, but epoch, net"),
        (torch.ones(3), r"no tensors by name, but a Tensor"),
        ({0: torch.ones(3)}, r"no tensors by name, but 0"),
    ],
)
def test_other_things_than_tensors_are_named(content, named, save):
    with pytest.raises(UserError, match=named):
        pretrained.read(save(content))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_named(share, save):
    path = save({f"layer{i}": torch.randn(40, 50) for i in range(5)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"weights\.pth is (damaged|.* cut short)"):
        pretrained.read(path)


def test_damage_in_the_middle_is_one_message_or_none(save):
    path = save({f"layer{i}": torch.randn(4, 5) for i in range(5)})
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            tensors = pretrained.read(path).tensors
        except UserError:
            continue
        assert all(isinstance(value, np.ndarray) for value in tensors.values())


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (5,), (1,)), (2, (3,), (1,)), (0, (2, 2), (3, 1)), (-1, (2,), (1,)), (3, (4,), (-1,)), (0, (5,), (2**62,))],
)
def test_a_tensor_cannot_reach_beyond_its_storage(offset, shape, strides, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(4.0)}, path)

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if item == "the storage" else None

    stream = io.BytesIO()
    tensor = Harm(torch._utils._rebuild_tensor_v2, "the storage", offset, shape, strides, False, None)
    Pickler(stream, protocol=2).dump({"a": tensor})
    with zipfile.ZipFile(path) as archive:
        names = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in names.items():
            archive.writestr(f"x/{name}", stream.getvalue() if name == "data.pkl" else content)
    with pytest.raises(UserError, match=r"cut short|impossible shape"):
        pretrained.read(path)
