"""Pretrained weights of encoders: read from a file or the Hugging Face hub, converted, and exported.

>>> from mtlflax.models import pretrained
>>> weights = pretrained.read("resnet50-0676ba61.pth")  # doctest: +SKIP
>>> variables = pretrained.convert("resnet50", weights.tensors)  # doctest: +SKIP

On the command line, check a file, and export a trained encoder for other programs:

    python -m mtlflax.models.pretrained --check FILE
    python -m mtlflax.models.pretrained --export WORKDIR --out FILE.safetensors
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from mtlflax.errors import UserError
from mtlflax.models.pretrained.conversion import convert, export, find, fitting
from mtlflax.models.pretrained.files import read, write
from mtlflax.models.pretrained.hub import DEFAULTS, download, is_name

__all__ = ["DEFAULTS", "convert", "download", "export", "find", "fitting", "is_name", "load", "put", "read", "write"]


def load(source: str, backbone: str) -> tuple[dict[str, Any], str]:
    """Load the weights of an encoder, one of `models.ENCODERS`, from a file or, by a name, the Hugging Face hub.

    Returns the variables, as from `convert`, and where they are from: the source and its SHA-256, and the prefix of the
    encoder's names if it is a part of something larger. UserError if they cannot be read or downloaded, or belong to
    another encoder, or `backbone` is not built in.
    """
    weights = read(download(source) if is_name(source) else source)
    try:
        variables, found = convert(backbone, weights.tensors), find(weights.tensors)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    part = f", {found.prefix}*, {len(found.left_out)} other tensors left out" if found.left_out else ""
    return variables, f"{source} (SHA-256 {weights.sha256}{part})"


def put(variables: Any, encoder: dict[str, Any], paths: Sequence[str]) -> Any:
    """Return a network's variables with those of an encoder at each of the paths, its `encoders`, e.g. ("encoder",).

    Both are {"params": ..., "batch_stats": ...}; ValueError if the network has another encoder at one of the paths.
    """
    flat, ours = flatten_dict(variables, sep="/"), flatten_dict(encoder, sep="/")
    for path in paths:
        there = {key for key in flat if key.split("/", 1)[1].startswith(f"{path}/")}
        given = {key.replace("/", f"/{path}/", 1): jnp.asarray(value) for key, value in ours.items()}
        if given.keys() != there or any(flat[key].shape != value.shape for key, value in given.items()):
            raise ValueError(f"the network has another encoder at {path} than the given weights are for")
        flat |= given
    return unflatten_dict(flat, sep="/")
