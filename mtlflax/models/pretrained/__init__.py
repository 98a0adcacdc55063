"""Encoders' pretrained weights: read from a file or the Hugging Face hub, converted, and written back out.

>>> from mtlflax.models import pretrained
>>> weights = pretrained.read("resnet50-0676ba61.pth")  # doctest: +SKIP
>>> variables = pretrained.convert("resnet50", weights.tensors)  # doctest: +SKIP

On the command line, what a file is and which encoder it fits, and a trained encoder for other programs:

    python -m mtlflax.models.pretrained --check FILE
    python -m mtlflax.models.pretrained --export WORKDIR --out FILE.safetensors
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from mtlflax.errors import UserError
from mtlflax.models.pretrained.conversion import convert, export, fitting, shapes
from mtlflax.models.pretrained.files import Weights, read, write
from mtlflax.models.pretrained.hub import DEFAULTS, download, is_name

__all__ = [
    "DEFAULTS",
    "Weights",
    "convert",
    "download",
    "export",
    "fitting",
    "is_name",
    "load",
    "put",
    "read",
    "shapes",
    "write",
]


def load(source: str, backbone: str) -> tuple[dict[str, Any], str]:
    """Loads an encoder's weights from wherever they are.

    Args:
        source: a file, or a name on the Hugging Face hub (`is_name` tells which).
        backbone: one of `models.ENCODERS`.

    Returns:
        The variables, as from `convert`, and what they were read from: the source and its SHA-256.

    Raises:
        UserError: they cannot be had, or belong to another encoder.
        ValueError: unknown backbone.
    """
    weights = read(download(source) if is_name(source) else source)
    try:
        return convert(backbone, weights.tensors), f"{source} (SHA-256 {weights.sha256})"
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def put(variables: Any, encoder: dict[str, Any], paths: Sequence[str]) -> Any:
    """Puts an encoder's variables into a network's.

    Args:
        variables: {"params": ..., "batch_stats": ...} of the network.
        encoder: the same of an encoder.
        paths: where the network has encoders, e.g. ("encoder",): its `encoders`.

    Returns:
        `variables` with the encoder's in place of what was at each of the paths.

    Raises:
        ValueError: at one of the paths is something else than this encoder.
    """
    flat, ours = flatten_dict(variables, sep="/"), flatten_dict(encoder, sep="/")
    for path in paths:
        there = {key for key in flat if key.split("/", 1)[1].startswith(f"{path}/")}
        given = {}
        for key, value in ours.items():
            collection, rest = key.split("/", 1)
            given[f"{collection}/{path}/{rest}"] = jnp.asarray(value)
        if given.keys() != there or any(flat[key].shape != value.shape for key, value in given.items()):
            raise ValueError(f"the network has another encoder at {path} than the one whose weights are given")
        flat |= given
    return unflatten_dict(flat, sep="/")
