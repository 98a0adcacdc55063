"""The encoders, by name."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from mtlflax.models import densenet, resnet

ENCODERS = (*resnet.VARIANTS, *densenet.VARIANTS)


def encoder(
    name: str,
    *,
    output_stride: int = 32,
    remat: bool = False,
    axis_name: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> resnet.ResNet | densenet.DenseNet:
    """Returns an encoder: `apply(variables, images, train=False)` -> maps of strides 2, 4, ..., 32.

    Args:
        name: one of `ENCODERS`.
        output_stride: 8, 16 or 32: no map is coarser; beyond it, convolutions are dilated.
        remat: whether what is in a block is computed anew in the backward pass: less memory, more time.
        axis_name: mapped axis for synchronised batch statistics.
        dtype: of the computation and of the maps; parameters and batch statistics are float32.

    Raises:
        ValueError: unknown name; from `init` and `apply`, another output stride.
    """
    options: dict[str, Any] = {"output_stride": output_stride, "remat": remat, "axis_name": axis_name, "dtype": dtype}
    if name in resnet.VARIANTS:
        return resnet.ResNet(name, **options)
    if name in densenet.VARIANTS:
        return densenet.DenseNet(name, **options)
    raise ValueError(f"unknown encoder {name!r}: choose one of {', '.join(ENCODERS)}")
