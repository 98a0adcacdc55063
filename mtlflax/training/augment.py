"""Augmentation in the train step: what the loader has drawn for each frame, done to the batch on the device.

The same zoom, mirroring and colors as `mtlflax.data.transforms`, which draws them, from the same random numbers. Where
that interpolates an image, the two differ by rounding (OpenCV's to 1/32 of a pixel), as zoomed depths do in their last
bit; all else is equal.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mtlflax.data.source import Depth, Field, Image, Map
from mtlflax.data.transforms import LUMA, YIQ
from mtlflax.tasks import Batch


def augment(batch: Batch, fields: Mapping[str, Field]) -> Batch:
    """Return a batch with its frames augmented as `augment`, float32 [B, 8], says; shapes and dtypes stay."""
    chosen = {name: batch[name] for name, field in fields.items() if name in batch and field.spatial}
    changed = jax.vmap(lambda frame, drawn: _frame(frame, drawn, fields))(chosen, batch["augment"])
    return {**batch, **changed}


def _frame(frame: Mapping[str, jax.Array], drawn: jax.Array, fields: Mapping[str, Field]) -> dict[str, jax.Array]:
    scale, y, x, mirrored, *changes = (drawn[i] for i in range(8))
    changed = {}
    for name, values in frame.items():
        field = fields[name]
        zoomed = _zoom(values, field, scale, (y, x))
        turned = jnp.where(mirrored > 0.5, _mirror(zoomed, field), zoomed)
        changed[name] = _recolor(turned, *changes) if isinstance(field, Image) else turned
    return changed


def _zoom(values: jax.Array, field: Field, scale: jax.Array, corner: tuple[jax.Array, jax.Array]) -> jax.Array:
    """As `transforms.zoom`: [H, W, ...]."""
    lengths = values.shape[:2]
    if isinstance(field, Image):
        image = values.astype(jnp.float32)
        for axis, (length, start) in enumerate(zip(lengths, corner, strict=True)):
            places = jnp.arange(length) / scale + start * length + (0.5 / scale - 0.5)
            places = jnp.clip(places, 0, length - 1)
            lower = jnp.floor(places).astype(jnp.int32)
            shape = [1, 1, 1]
            shape[axis] = length
            share = (places - lower).reshape(shape)
            upper = jnp.minimum(lower + 1, length - 1)
            image = (1 - share) * jnp.take(image, lower, axis) + share * jnp.take(image, upper, axis)
        return jnp.rint(image).astype(values.dtype)
    for axis, (length, start) in enumerate(zip(lengths, corner, strict=True)):
        places = ((jnp.arange(length) + 0.5) / scale + start * length).astype(jnp.int32)
        values = jnp.take(values, jnp.minimum(places, length - 1), axis)
    return field.zoom(values, scale) if isinstance(field, Depth) else values


def _mirror(values: jax.Array, field: Field) -> jax.Array:
    """As `transforms.mirror`."""
    mirrored = values[:, ::-1]
    if isinstance(field, Map) and field.mirror:
        signs = jnp.asarray(field.mirror, values.dtype).reshape(1, 1, -1)
        unknown = jnp.all(mirrored == jnp.asarray(field.unknown, values.dtype), axis=-1, keepdims=True)
        return jnp.where(unknown, mirrored, mirrored * signs)
    return mirrored


def _recolor(
    image: jax.Array, brightness: jax.Array, contrast: jax.Array, saturation: jax.Array, hue: jax.Array
) -> jax.Array:
    """As `transforms.recolor`."""
    cosine, sine = (saturation * turn(2 * jnp.pi * hue) for turn in (jnp.cos, jnp.sin))
    zero, one = jnp.zeros_like(hue), jnp.ones_like(hue)
    turn = jnp.array([[one, zero, zero], [zero, cosine, sine], [zero, -sine, cosine]])
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    linear = (
        brightness * contrast * product(np.linalg.inv(YIQ).astype(np.float32), product(turn, YIQ.astype(np.float32)))
    )
    colors = image.astype(jnp.float32)
    mean_luma = brightness * product(jnp.mean(colors, axis=(0, 1)), LUMA.astype(np.float32))
    changed = product(colors, linear.T) + (1 - contrast) * mean_luma
    return jnp.clip(jnp.rint(changed), 0, 255).astype(image.dtype)
