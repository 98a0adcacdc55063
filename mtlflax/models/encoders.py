"""The encoders, by name."""

import jax.numpy as jnp
from jax.typing import DTypeLike

from mtlflax.models import densenet, resnet

ENCODERS = (*resnet.VARIANTS, *densenet.VARIANTS)


def encoder(
    name: str, *, axis_name: str | None = None, dtype: DTypeLike = jnp.float32
) -> resnet.ResNet | densenet.DenseNet:
    """Returns an encoder: `apply(variables, images, train=False)` -> maps of strides 2, 4, ..., 32.

    Args:
        name: one of `ENCODERS`.
        axis_name: mapped axis for synchronised batch statistics.
        dtype: of the computation and of the maps; parameters and batch statistics are float32.

    Raises:
        ValueError: unknown name.
    """
    if name in resnet.VARIANTS:
        return resnet.ResNet(name, axis_name=axis_name, dtype=dtype)
    if name in densenet.VARIANTS:
        return densenet.DenseNet(name, axis_name=axis_name, dtype=dtype)
    raise ValueError(f"unknown encoder {name!r}: choose one of {', '.join(ENCODERS)}")
