"""A U-Net's decoder with attention, and decoders that run together."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.attention import KINDS
from mtlflax.models.layers import BatchNorm, Conv, resize, scaled_normal
from mtlflax.models.network import check_whole

STRIDES = (16, 8, 4, 2, 1)  # of the stages
HEAD_STRIDES = (1, 2, 4)


def check_decoder(head_stride: int, decoder_channels: tuple[int, ...]) -> None:
    """Raises ValueError, naming the option of the network, for a decoder that there cannot be."""
    check_whole({"head_stride": head_stride})
    if head_stride not in HEAD_STRIDES:
        raise ValueError(f"head_stride is {head_stride}: choose one of {HEAD_STRIDES}")
    if not isinstance(decoder_channels, tuple | list) or len(decoder_channels) != len(STRIDES):
        raise ValueError(f"decoder_channels is {decoder_channels}: give five, for strides 16, 8, 4, 2 and 1")
    check_whole({"decoder_channels": decoder_channels})


class Decoder(nn.Module):
    """From five maps of strides 2 to 32 to one task's logits (after Ronneberger et al. 2015).

    A stage narrows the map with a 1×1 convolution and doubles its size bilinearly (together the
    paper's "up-convolution"), puts the encoder's map of that stride beside it, and runs two 3×3
    convolutions, each with BatchNorm and ReLU. The last stage, to stride 1, has no skip. The head
    is a 1×1 convolution. Attention is on the skip connection, or behind the stage's convolutions.

    Attributes:
        channels: of the head, e.g. the number of classes.
        widths: channels of the stages to strides 16, 8, 4, 2 and 1.
        head_stride: 1, 2 or 4: where the head is, and the last stage. Its logits are enlarged.
        attention: a key of `attention.KINDS`.
        activated: for each map, whether it is normalised and rectified; else that is done here.
    """

    channels: int
    widths: tuple[int, ...]
    head_stride: int
    attention: str
    activated: tuple[bool, ...]
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Builds the stages and the head."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        kind = KINDS[self.attention]
        for stride, activated in zip((2, 4, 8, 16, 32), self.activated, strict=True):
            if not activated and stride >= self.head_stride:
                setattr(self, f"norm_stride{stride}", norm())
        for stride, width in zip(STRIDES, self.widths, strict=True):
            if stride < self.head_stride:
                break
            name = f"stride{stride}"
            setattr(self, f"{name}_up", conv(width))
            if stride > 1 or kind.place != "skip":
                setattr(self, f"{name}_attention", kind(self.axis_name, self.dtype))
            for i in (1, 2):
                setattr(self, f"{name}_conv{i}", conv(width, 3, 1, 1))
                setattr(self, f"{name}_bn{i}", norm())
        # Nearly zero at first, so that the losses start at those of a guess, whatever the task.
        init, dtype = scaled_normal(1e-3, "in"), jnp.promote_types(self.dtype, jnp.float32)
        self.head = Conv(self.channels, use_bias=True, dtype=dtype, kernel_init=init)

    def __call__(self, features: tuple[jax.Array, ...], size: tuple[int, int], train: bool) -> jax.Array:
        """Returns logits float32 [B, *size, channels]."""
        return run({"": self}, features, size, train)[""]

    def activate(self, features: tuple[jax.Array, ...], train: bool) -> dict[int, jax.Array]:
        """The encoder's maps by stride, normalised and rectified."""
        maps = {2**i: x for i, x in enumerate(features, start=1)}
        for stride, activated in zip(maps, self.activated, strict=True):
            if not activated and stride >= self.head_stride:
                maps[stride] = nn.relu(getattr(self, f"norm_stride{stride}")(maps[stride], train))
        return maps

    def stage(self, x: jax.Array, skip: jax.Array | None, stride: int, size: tuple[int, int], train: bool) -> jax.Array:
        """The stage to a stride: the map at twice that, and the encoder's at it, if any, to [B, *size, width]."""
        name, place = f"stride{stride}", KINDS[self.attention].place
        # A 1×1 convolution commutes with the enlargement, and costs a quarter before it.
        up = resize(getattr(self, f"{name}_up")(x), size)
        if skip is not None:
            if place == "skip":
                skip = getattr(self, f"{name}_attention")(skip, x, train)
            up = jnp.concatenate([up, skip], axis=-1)
        given = [up]
        for i in (1, 2):
            y = getattr(self, f"{name}_conv{i}")(given[-1])
            given.append(nn.relu(getattr(self, f"{name}_bn{i}")(y, train)))
        _, first, second = given
        return getattr(self, f"{name}_attention")(second, first, train) if place == "stage" else second

    def exchange(self, x: jax.Array, others: Mapping[str, jax.Array], stride: int, train: bool) -> jax.Array:
        """What a stage gives, once it has attended to what the other tasks' give."""
        return getattr(self, f"stride{stride}_attention")(x, others, train)

    def logits(self, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        """The head: what the last stage gives to float32 [B, *size, channels]."""
        return resize(self.head(x), size)


def run(
    decoders: Mapping[str, Decoder], features: tuple[jax.Array, ...], size: tuple[int, int], train: bool
) -> dict[str, jax.Array]:
    """Runs decoders of one kind stage by stage, each beside the others: those that attend to each other have to.

    Args:
        decoders: by task; they differ in `channels` alone.
        features: the encoder's five maps.
        size: (H, W) of the logits.
        train: whether BatchNorm takes and updates batch statistics.

    Returns:
        Logits by task, float32 [B, *size, channels].
    """
    kind, last = next((KINDS[decoder.attention], decoder.head_stride) for decoder in decoders.values())
    maps = {task: decoder.activate(features, train) for task, decoder in decoders.items()}
    x = {task: maps[task][32] for task in decoders}
    for stride in (stride for stride in STRIDES if stride >= last):
        for task, decoder in decoders.items():
            skip = maps[task].get(stride)
            here = size if skip is None else (skip.shape[1], skip.shape[2])
            x[task] = decoder.stage(x[task], skip, stride, here, train)
        if kind.place == "tasks":
            others = {task: {other: x[other] for other in decoders if other != task} for task in decoders}
            x = {task: decoder.exchange(x[task], others[task], stride, train) for task, decoder in decoders.items()}
    return {task: decoder.logits(x[task], size) for task, decoder in decoders.items()}
