"""Checks of networks and encoders of one's own: by shapes, before anything is computed."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mtlflax.errors import UserError, describe
from mtlflax.models.encoders import Backbone, encoder


def check_encoder(name: Backbone) -> None:
    """Raise UserError unless an encoder maps images to five maps of strides 2, 4, 8, 16 and 32."""
    try:
        module = encoder(name)
        maps, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), np.zeros((1, 64, 96, 3), np.float32))
        found = [(x.shape[0], x.shape[1], x.shape[2]) for x in maps]
    except Exception as error:
        raise UserError(f"encoder {name!r} failed on an image of 64×96: {describe(error)}") from error
    expected = [(1, 64 // stride, 96 // stride) for stride in (2, 4, 8, 16, 32)]
    if found != expected:
        raise UserError(
            f"encoder {name!r} gives maps of {_sizes(found)} for an image of 64×96, not the five maps of strides 2, 4, "
            f"8, 16 and 32: {_sizes(expected)}"
        )


def check_network(model: Any, name: str, heads: Mapping[str, int], size: tuple[int, int], axis_name: str) -> None:
    """Raise UserError unless a network gives each head's float32 map, at the size of the images, and can be trained.

    Its auxiliary predictions, which are there in training, may have any size.
    """
    images = jax.ShapeDtypeStruct((1, *size, 3), np.float32)

    def train(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    try:
        predictions, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        found = {task: f"{y.dtype} {list(y.shape)}" for task, y in predictions.items()}
        mapped = jax.vmap(train, in_axes=(None, 0), axis_name=axis_name)
        jax.eval_shape(mapped, dict(variables), jax.ShapeDtypeStruct((2, *images.shape), np.float32))
    except Exception as error:
        raise UserError(f"network {name!r} failed on an image of {size[0]}×{size[1]}: {describe(error)}") from error
    expected = {task: f"float32 {[1, *size, channels]}" for task, channels in heads.items()}
    if found != expected:
        raise UserError(f"network {name!r} gives {found} for images [1, {size[0]}, {size[1]}, 3], not {expected}")


def _sizes(maps: list[tuple[int, int, int]]) -> str:
    return ", ".join(f"{height}×{width}" for _, height, width in maps)
