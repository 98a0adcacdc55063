"""The decoder of a U-Net with attention, and decoders that run together."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlflax.models.attention import KINDS
from mtlflax.models.blocks import activate, head
from mtlflax.models.checks import check_choice, check_whole
from mtlflax.models.layers import BatchNorm, Conv, Layer
from mtlflax.models.resize import resize

STRIDES = (16, 8, 4, 2, 1)  # of the stages
HEAD_STRIDES = (1, 2, 4)


def check_decoder(head_stride: int, decoder_channels: tuple[int, ...]) -> None:
    """Raise ValueError, naming the option of the network, for a value that makes no sense."""
    check_choice("head_stride", head_stride, HEAD_STRIDES)
    if not isinstance(decoder_channels, tuple | list) or len(decoder_channels) != len(STRIDES):
        raise ValueError(f"decoder_channels is {decoder_channels}: must be five numbers, for strides 16, 8, 4, 2 and 1")
    check_whole({"decoder_channels": decoder_channels})


class Decoder(Layer):
    """From five maps of strides 2 to 32 to the logits of one task (after Ronneberger et al. 2015).

    A stage narrows the map by a 1×1 convolution and doubles its size bilinearly (together the paper's
    "up-convolution"), concatenates the encoder's map of that stride, and applies two 3×3 convolutions, each with
    BatchNorm and ReLU. The last stage, to stride 1, has no skip connection. The head is a 1×1 convolution. Attention is
    on the skip connections, or behind the convolutions of a stage.
    """

    channels: int  # of the head, e.g. the number of classes
    widths: tuple[int, ...]  # channels of the stages to strides 16, 8, 4, 2 and 1
    head_stride: int  # 1, 2 or 4: the stride of the last stage and the head; the logits are enlarged from there
    attention: str  # a key of `attention.KINDS`
    activated: tuple[bool, ...]  # whether each of the encoder's maps is normalized and rectified already

    def setup(self) -> None:
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, **self.common)
        kind = KINDS[self.attention]
        for stride, width in zip(STRIDES, self.widths, strict=True):
            if stride < self.head_stride:
                break
            name = f"stride{stride}"
            setattr(self, f"{name}_up", conv(width))
            if stride > 1 or kind.place != "skip":
                setattr(self, f"{name}_attention", kind(**self.common))
            for i in (1, 2):
                setattr(self, f"{name}_conv{i}", conv(width, 3, 1, 1))
                setattr(self, f"{name}_bn{i}", norm())
        self.head = head(self.channels, self.dtype)

    def __call__(self, features: tuple[jax.Array, ...], size: tuple[int, int], train: bool) -> jax.Array:
        """Return logits float32 [B, *size, channels]."""
        return run({"": self}, features, size, train)[""]

    @nn.compact
    def activate(self, features: tuple[jax.Array, ...], train: bool) -> dict[int, jax.Array]:
        """Return the encoder's maps by stride, normalized and rectified as far as the stages need them."""
        strides = [2**i for i in range(1, len(features) + 1)]
        done = [ready or stride < self.head_stride for ready, stride in zip(self.activated, strides, strict=True)]
        names = [f"norm_stride{stride}" for stride in strides]
        maps = activate(features, done, train, names=names, **self.common)
        return dict(zip(strides, maps, strict=True))

    def stage(self, x: jax.Array, skip: jax.Array | None, stride: int, size: tuple[int, int], train: bool) -> jax.Array:
        """Run the stage to a stride, given the map of twice that stride and the skip connection, if it has one."""
        name, place = f"stride{stride}", KINDS[self.attention].place
        # A 1×1 convolution commutes with the enlargement, and costs a quarter before it.
        up = resize(getattr(self, f"{name}_up")(x), size)
        if skip is not None:
            if place == "skip":
                skip = getattr(self, f"{name}_attention")(skip, x, train)
            up = jnp.concatenate([up, skip], axis=-1)
        first = getattr(self, f"{name}_conv1")(up)
        norm = getattr(self, f"{name}_bn1").prepare(first, train)
        second = getattr(self, f"{name}_conv2")(first, norm)
        second = nn.relu(getattr(self, f"{name}_bn2")(second, train))
        if place != "stage":
            return second
        return getattr(self, f"{name}_attention")(second, nn.relu(norm(first).astype(self.dtype)), train)

    def exchange(self, x: jax.Array, others: Mapping[str, jax.Array], stride: int, train: bool) -> jax.Array:
        """Let the output of a stage attend to the outputs of the other tasks' stages."""
        return getattr(self, f"stride{stride}_attention")(x, others, train)

    def logits(self, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Apply the head to the output of the last stage: logits float32 [B, *size, channels]."""
        return resize(self.head(x), size)


def run(
    decoders: Mapping[str, Decoder], features: tuple[jax.Array, ...], size: tuple[int, int], train: bool
) -> dict[str, jax.Array]:
    """Run decoders of one kind together, stage by stage, as those that attend to each other must.

    The decoders, by task, may differ in `channels` only; logits are float32 [B, *size, channels].
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
