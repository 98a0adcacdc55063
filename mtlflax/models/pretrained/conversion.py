"""An encoder's variables from a PyTorch state dict, and back: names, layouts, and whether the two fit."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mtlflax.errors import UserError
from mtlflax.models.encoders import ENCODERS, encoder

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_WRAPPERS = ("module.", "model.", "backbone.", "encoder.")  # what all of a wrapped encoder's names begin with
CLASSIFIER = re.compile(r"(?:fc|classifier(?:\.1)?)\.(?:weight|bias)")
COUNTER = re.compile(r".*\.num_batches_tracked")  # BatchNorm here has no use for it
# densenet121-a639ec97.pth and its kind write norm.1.weight for norm1.weight (pytorch/vision#474).
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)")
# microsoft/resnet-50 and its kind: the stem, and a part of a block.
_HUGGING_FACE_STEM = re.compile(r"(?:resnet\.)?embedder\.embedder\.(convolution|normalization)\.(\w+)")
_HUGGING_FACE_BLOCK = re.compile(
    r"(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut|layer\.(\d+))\.(convolution|normalization)\.(\w+)"
)


class _Entry(NamedTuple):
    """Where a tensor of a state dict belongs among the variables."""

    path: tuple[str, ...]  # the collection first
    shape: tuple[int, ...]  # in the state dict


def torch_key(backbone: str, path: tuple[str, ...]) -> str:
    """Returns torchvision's name for one of our variables, given its path below the collection.

    >>> torch_key("resnet50", ("layer1_0", "downsample_bn", "mean"))
    'layer1.0.downsample.1.running_mean'
    >>> torch_key("densenet121", ("denseblock1", "denselayer2", "conv1", "kernel"))
    'features.denseblock1.denselayer2.conv1.weight'
    """
    *modules, leaf = path
    name = ".".join([*modules, _LEAVES[leaf]])
    if backbone.startswith("densenet"):
        return f"features.{name}"
    name = re.sub(r"^(layer\d)_(\d+)", r"\1.\2", name)
    return name.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")


def rename(state_dict: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """Gives tensors torchvision's names.

    Args:
        state_dict: arrays by the names of torchvision, timm or Hugging Face's ResNets, the old DenseNet ones included.
            What all begin with, `DataParallel`'s "module." or a wrapper's "model.", "backbone." or "encoder.", is cut.

    Returns:
        Whose names they were, in words, and the arrays by torchvision's. Names that nobody knows stay.

    Raises:
        UserError: two names mean the same tensor.

    >>> rename({"module.resnet.encoder.stages.0.layers.1.layer.2.convolution.weight": np.zeros(1)})
    ('Hugging Face', {'layer1.1.conv3.weight': array([0.])})
    """
    tensors = dict(state_dict)
    while wrapper := next((w for w in _WRAPPERS if tensors and all(key.startswith(w) for key in tensors)), None):
        tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    for scheme, new_name in (("Hugging Face", _from_hugging_face), ("torchvision (old DenseNet)", _from_old_densenet)):
        renamed: dict[str, np.ndarray] = {}
        for key, value in tensors.items():
            if (name := new_name(key)) in renamed:
                raise UserError(f"there are two tensors for {name}, one of them called {key}")
            renamed[name] = value
        if renamed.keys() != tensors.keys():
            return scheme, renamed
    return "torchvision or timm", tensors


def _from_hugging_face(key: str) -> str:
    if stem := _HUGGING_FACE_STEM.fullmatch(key):
        return f"{'conv1' if stem[1] == 'convolution' else 'bn1'}.{stem[2]}"
    if block := _HUGGING_FACE_BLOCK.fullmatch(key):
        convolution = block[5] == "convolution"
        if block[3] == "shortcut":
            part = f"downsample.{0 if convolution else 1}"
        else:
            part = f"{'conv' if convolution else 'bn'}{int(block[4]) + 1}"
        return f"layer{int(block[1]) + 1}.{block[2]}.{part}.{block[6]}"
    return key


def _from_old_densenet(key: str) -> str:
    return _OLD_DENSENET.sub(r"\1\2", key)


@cache
def _layout(backbone: str) -> dict[str, _Entry]:
    """The tensors that an encoder needs, by torchvision's names."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = flatten_dict(jax.eval_shape(encoder(backbone).init, jax.random.key(0), images))
    layout = {}
    for path, leaf in variables.items():
        shape = leaf.shape
        if path[-1] == "kernel":
            shape = (shape[3], shape[2], shape[0], shape[1])  # HWIO to OIHW
        layout[torch_key(backbone, path[1:])] = _Entry(path, shape)
    return layout


def shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """The tensors of torchvision's state dict that make an encoder, without classifier and counters: name → shape.

    Raises:
        ValueError: unknown backbone.
    """
    return {key: entry.shape for key, entry in _layout(backbone).items()}


def faults(backbone: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """What keeps a state dict from being an encoder's.

    Args:
        backbone: one of `models.ENCODERS`.
        state_dict: as `convert` takes it.

    Returns:
        "missing", "misshapen", "surplus" and "spoilt" → tensors, with what is wrong with them. Empty where all fits.

    Raises:
        UserError: two names mean the same tensor.
        ValueError: unknown backbone.
    """
    _, tensors = rename(state_dict)
    missing, misshapen, spoilt = [], [], []
    for key, (path, shape) in _layout(backbone).items():
        value = tensors.pop(key, None)
        if value is None:
            missing.append(key)
        elif value.shape != shape:
            misshapen.append(f"{key} is {value.shape}, not {shape}")
        elif not jnp.issubdtype(value.dtype, jnp.floating):
            misshapen.append(f"{key} is {value.dtype}, not floating point")
        elif not np.all(np.isfinite(_float32(value))):
            spoilt.append(f"{key} has values that are not finite")
        elif path[-1] == "var" and np.min(value) < 0:
            spoilt.append(f"{key} has negative variances")
    surplus = [key for key in tensors if not CLASSIFIER.fullmatch(key) and not COUNTER.fullmatch(key)]
    found = {"missing": missing, "misshapen": misshapen, "surplus": surplus, "spoilt": spoilt}
    return {kind: keys for kind, keys in found.items() if keys}


def _float32(value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinities are named
        return np.asarray(value, np.float32)


def describe(found: Mapping[str, list[str]]) -> str:
    """Says in a line what `faults` found."""
    parts = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" for kind, keys in found.items()
    ]
    return "; ".join(parts)


def fitting(state_dict: Mapping[str, np.ndarray]) -> str | None:
    """The one of `models.ENCODERS` that a state dict is of, or None; UserError as from `faults`."""
    return next((name for name in ENCODERS if not faults(name, state_dict)), None)


def convert(backbone: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts a PyTorch state dict to an encoder's variables.

    Args:
        backbone: one of `models.ENCODERS`.
        state_dict: arrays by the names that `rename` knows. The classifier may be there or not.

    Returns:
        {"params": ..., "batch_stats": ...} of `models.encoder(backbone)`, float32 NumPy arrays.

    Raises:
        UserError: tensors are missing, of another shape, belong to another network, or hold what no trained one can.
        ValueError: unknown backbone.
    """
    if found := faults(backbone, state_dict):
        other = fitting(state_dict)
        advice = f"They are a {other}'s: take that backbone" if other else "They fit no encoder here: give others"
        raise UserError(f"these weights are not a {backbone}'s: {describe(found)}. {advice}, or a {backbone}'s weights")
    _, tensors = rename(state_dict)
    variables = {}
    for key, (path, _) in _layout(backbone).items():
        value = _float32(tensors[key])
        variables[path] = value.transpose(2, 3, 1, 0) if path[-1] == "kernel" else value
    return unflatten_dict(variables)


def export(backbone: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts an encoder's variables to a PyTorch state dict: the inverse of `convert`.

    Args:
        backbone: one of `models.ENCODERS`.
        variables: {"params": ..., "batch_stats": ...} of that encoder.

    Returns:
        Float32 arrays by torchvision's names, without a classifier. torchvision's network takes them with
        `load_state_dict(..., strict=False)`.

    Raises:
        ValueError: unknown backbone.
        KeyError: variables of another encoder.
    """
    flat = flatten_dict(variables)
    tensors = {}
    for key, (path, _) in _layout(backbone).items():
        value = np.asarray(flat[path], np.float32)
        tensors[key] = value.transpose(3, 2, 0, 1) if path[-1] == "kernel" else value
    return tensors
