"""Convert the variables of an encoder from and to a PyTorch state dict: names, layouts, and whether the two fit."""

import re
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mtlflax.errors import UserError
from mtlflax.models.encoders import ENCODERS, encoder

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# A tensor that only an encoder has, and what its name begins with where the encoder is a part of something.
_ANCHOR = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:layer1\.0\.(?:conv|bn)\d\.weight|features\.(?:conv0|norm0)\.weight"
    r"|features\.denseblock1\.denselayer1\.(?:conv|norm)\.?\d\.weight"
    r"|(?:resnet\.)?embedder\.embedder\.(?:convolution|normalization)\.weight)"
)
CLASSIFIER = re.compile(r"(?:fc|classifier(?:\.1)?)\.(?:weight|bias)")
COUNTER = re.compile(r".*\.num_batches_tracked")  # not needed by BatchNorm here
# densenet121-a639ec97.pth and others write norm.1.weight for norm1.weight (pytorch/vision#474).
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)")
# microsoft/resnet-50 and others: the stem, and a part of a block.
_HUGGING_FACE_STEM = re.compile(r"(?:resnet\.)?embedder\.embedder\.(convolution|normalization)\.(\w+)")
_HUGGING_FACE_BLOCK = re.compile(
    r"(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut|layer\.(\d+))\.(convolution|normalization)\.(\w+)"
)


def torch_key(backbone: str, path: tuple[str, ...]) -> str:
    """Return torchvision's name of a variable, given its path below the collection.

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


class Found(NamedTuple):
    """An encoder in a state dict."""

    scheme: str  # whose names the tensors had, in words
    tensors: dict[str, np.ndarray]  # by torchvision's names; unknown names stay as they were
    prefix: str  # what the names of the encoder began with, "backbone." or ""
    left_out: list[str]  # the names of the other tensors, without that prefix


def find(state_dict: Mapping[str, np.ndarray]) -> Found:
    """Find the encoder in a state dict and give its tensors torchvision's names.

    Arrays are given by the names of torchvision (the old DenseNet names too), timm or Hugging Face's ResNets. The
    encoder may be a part of something larger, a segmentation network ("backbone.") or MoCo ("module.encoder_q.").
    Several encoders, or two names for the same tensor, are a UserError.

    >>> found = find({"backbone.layer1.0.conv1.weight": np.zeros(1), "classifier.4.weight": np.zeros(1)})
    >>> found.tensors, found.prefix, found.left_out
    ({'layer1.0.conv1.weight': array([0.])}, 'backbone.', ['classifier.4.weight'])
    """
    prefixes = sorted({match["prefix"] for key in state_dict if (match := _ANCHOR.fullmatch(key))})
    if len(prefixes) > 1:
        raise UserError(
            f"there are several encoders, whose names begin with {' and '.join(map(repr, prefixes))}: save the tensors "
            "of one of them alone"
        )
    prefix = prefixes[0] if prefixes else ""
    inside = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    left_out = [key for key in state_dict if not key.startswith(prefix)]
    for scheme, new_name in (
        ("Hugging Face", _from_hugging_face),
        ("torchvision (old DenseNet)", partial(_OLD_DENSENET.sub, r"\1\2")),
    ):
        renamed: dict[str, np.ndarray] = {}
        for key, value in inside.items():
            if (name := new_name(key)) in renamed:
                raise UserError(f"there are two tensors for {name}, one of them named {key}")
            renamed[name] = value
        if renamed.keys() != inside.keys():
            return Found(scheme, renamed, prefix, left_out)
    return Found("torchvision or timm", inside, prefix, left_out)


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


@cache
def layout(backbone: str) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Return torchvision's names of the tensors of an encoder, which must be built in (UserError).

    Each name goes with its path among the variables, the collection first, and its shape in the state dict.
    """
    if backbone not in ENCODERS:
        raise UserError(f"weights are known for the built-in encoders ({', '.join(ENCODERS)}), not for {backbone}")
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = flatten_dict(jax.eval_shape(encoder(backbone).init, jax.random.key(0), images))
    layout = {}
    for path, leaf in variables.items():
        shape = leaf.shape
        if path[-1] == "kernel":
            shape = (shape[3], shape[2], shape[0], shape[1])  # HWIO to OIHW
        layout[torch_key(backbone, path[1:])] = (path, shape)
    return layout


def faults(backbone: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Return what keeps a state dict from fitting an encoder; UserError as from `find` and `layout`.

    It is "missing", "misshapen", "surplus" and "spoilt" → tensors, with what is wrong with them; empty if all fit.
    """
    tensors = find(state_dict).tensors
    missing, misshapen, spoilt = [], [], []
    for key, (path, shape) in layout(backbone).items():
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
    """Describe in a line what `faults` found."""
    return "; ".join(
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" for kind, keys in found.items()
    )


def fitting(state_dict: Mapping[str, np.ndarray]) -> str | None:
    """Return which of `models.ENCODERS` a state dict fits, or None; UserError as from `find`."""
    return next((name for name in ENCODERS if not faults(name, state_dict)), None)


def convert(backbone: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert a PyTorch state dict, as `find` takes it, to the variables of an encoder, one of `models.ENCODERS`.

    They are {"params": ..., "batch_stats": ...} of float32 NumPy arrays. A classifier may be there or not. UserError if
    the encoder is not built in, or tensors are missing, have another shape, belong to another network, or hold values
    that no trained network has.
    """
    if found := faults(backbone, state_dict):
        other = fitting(state_dict)
        advice = f"They are for {other}: use that backbone" if other else "They fit no encoder here: give others"
        raise UserError(f"these weights are not for {backbone}: {describe(found)}. {advice}, or weights for {backbone}")
    tensors = find(state_dict).tensors
    variables = {}
    for key, (path, _) in layout(backbone).items():
        value = _float32(tensors[key])
        variables[path] = value.transpose(2, 3, 1, 0) if path[-1] == "kernel" else value
    return unflatten_dict(variables)


def export(backbone: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert the variables of an encoder to a PyTorch state dict: the inverse of `convert`.

    Returns float32 arrays by torchvision's names, without a classifier, for `load_state_dict(..., strict=False)`. An
    encoder that is not built in is a UserError, variables of another one are a KeyError.
    """
    flat = flatten_dict(variables)
    tensors = {}
    for key, (path, _) in layout(backbone).items():
        value = np.asarray(flat[path], np.float32)
        tensors[key] = value.transpose(3, 2, 0, 1) if path[-1] == "kernel" else value
    return tensors
