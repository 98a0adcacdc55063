"""Encoders' weights from PyTorch: torchvision's and timm's state dicts."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mtlflax.errors import UserError
from mtlflax.models.encoders import encoder

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# The classifiers, which an encoder has not, and a counter that BatchNorm here has no use for.
_IGNORED = re.compile(r"(fc|classifier)\.(weight|bias)|.*\.num_batches_tracked")
# densenet121-a639ec97.pth and its kind write norm.1.weight for norm1.weight (pytorch/vision#474).
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)")


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


def convert(backbone: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts a PyTorch state dict to an encoder's variables.

    Args:
        backbone: one of `models.ENCODERS`.
        state_dict: arrays by torchvision's or timm's key names, the old DenseNet ones included. The
            classifier may be there or not.

    Returns:
        {"params": ..., "batch_stats": ...} of `models.encoder(backbone)`, float32 NumPy arrays.

    Raises:
        UserError: tensors are missing, of another shape, or belong to another network.
        ValueError: unknown backbone.
    """
    tensors = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state_dict.items()}
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    expected = flatten_dict(jax.eval_shape(encoder(backbone).init, jax.random.key(0), images))

    variables, missing, misshapen = {}, [], []
    for (collection, *path), leaf in expected.items():
        key = torch_key(backbone, tuple(path))
        if key not in tensors:
            missing.append(key)
            continue
        value = np.asarray(tensors.pop(key), np.float32)
        if path[-1] == "kernel" and value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)  # OIHW to HWIO
        if value.shape != leaf.shape:
            misshapen.append(f"{key} is {value.shape}, not {leaf.shape}")
        variables[(collection, *path)] = value
    surplus = [key for key in tensors if not _IGNORED.fullmatch(key)]

    faults = [
        f"{len(keys)} {fault} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for fault, keys in (("missing", missing), ("misshapen", misshapen), ("surplus", surplus))
        if keys
    ]
    if faults:
        raise UserError(
            f"these weights are not a {backbone}'s: {'; '.join(faults)}. "
            "Give weights with torchvision's or timm's key names, or the backbone they belong to."
        )
    return unflatten_dict(variables)
