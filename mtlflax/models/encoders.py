"""Encoders by name, built in or one's own."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtlflax import registry
from mtlflax.models import densenet, resnet
from mtlflax.models.staged import StagedEncoder


class Encoder(Protocol):
    """What a network asks of an encoder, which is a Flax module.

    An encoder may also have these attributes:

    - `activated`: whether each of the five maps is normalized and rectified; default: all are. Decoders do the rest.
    - `last_stage`: how the paths of the last stage's parameters begin ("layer4_"); default: all its parameters count.
      GradNorm measures gradients there.
    - `stem` and `stage` as in `StagedEncoder`: `mtan`, `cross_stitch`, `sluice` and `nddr_cnn` need them.
    """

    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Map normalized images [B, H, W, 3] to five maps of strides 2, 4, 8, 16 and 32, finest first."""


# A name, or what makes an encoder when called with `output_stride, remat, axis_name, dtype`.
Backbone = str | Callable[..., Encoder]

ENCODERS: dict[str, Callable[..., StagedEncoder]] = {
    **{name: partial(resnet.ResNet, name) for name in resnet.VARIANTS},
    **{name: partial(densenet.DenseNet, name) for name in densenet.VARIANTS},
}


def find(backbone: Backbone) -> Callable[..., Encoder]:
    """Return what makes an encoder; UserError for a name that is neither built in nor can be imported."""
    if isinstance(backbone, str):
        return cast(Callable[..., Encoder], registry.find(backbone, ENCODERS, what="encoder"))
    return backbone


def encoder(
    name: Backbone,
    *,
    output_stride: int = 32,
    remat: bool = False,
    axis_name: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Any:
    """Return an encoder, see `Encoder`: `apply(variables, images, train=False)` -> maps of strides 2, 4, ..., 32.

    Args:
        name: a key of `ENCODERS`, "package.module:name", or the class or function that such a name stands for.
        output_stride: 8, 16 or 32: no map is coarser; beyond it, convolutions are dilated.
        remat: recompute each block in the backward pass: less memory, more time.
        axis_name: mapped axis for synchronized batch statistics.
        dtype: of the computation and of the maps; parameters and batch statistics are float32.

    An unknown name is a UserError, an encoder of one's own that does not take these options a TypeError, and an unknown
    output stride a ValueError, from `init` and `apply`.
    """
    return find(name)(output_stride=output_stride, remat=remat, axis_name=axis_name, dtype=dtype)


def staged_encoder(name: Backbone, **options: Any) -> StagedEncoder:
    """Return an encoder whose stages can be run one by one; ValueError if it has no `stem` and `stage`."""
    found = encoder(name, **options)
    if not (hasattr(found, "stem") and hasattr(found, "stage")):
        raise ValueError(f"backbone is {name!r}: this network needs an encoder with the methods stem and stage")
    return found


def activated(found: Any) -> tuple[bool, ...]:
    """Return whether each of an encoder's five maps is normalized and rectified."""
    return getattr(found, "activated", (True,) * 5)
