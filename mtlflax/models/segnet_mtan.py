"""MTAN on SegNet, as its authors apply it (Liu et al. 2019, arXiv:1803.10704; SegNet: Badrinarayanan et al. 2017).

The network of the tables of Nash-MTL, CAGrad and FAMO.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlflax.models.blocks import head
from mtlflax.models.checks import check_whole
from mtlflax.models.layers import BatchNorm, Conv, ConvBlock, Layer, xavier
from mtlflax.models.network import BranchedNetwork
from mtlflax.models.resize import resize

_STAGES = 5
_CONVOLUTIONS = (1, 1, 2, 2, 2)  # of a stage, behind its first one


class Attention(Layer):
    """The mask of one task at one stage, a number of 0 to 1 per pixel and channel: [B, H, W, C] → [B, H, W, features].

    σ(BN(conv(ReLU(BN(conv(x)))))), with 1×1 convolutions.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the mask."""
        x = ConvBlock(self.features, kernel_init=xavier, **self.common, name="g")(x, train)
        x = Conv(self.features, kernel_init=xavier, dtype=self.dtype, name="h_conv")(x)
        return nn.sigmoid(BatchNorm(**self.common, name="h_bn")(x, train))


class Head(Layer):
    """The branch of a task: a 3×3 and a 1×1 convolution, without a nonlinearity between them."""

    channels: int

    @nn.compact
    def __call__(self, features: jax.Array, size: tuple[int, int], train: bool) -> jax.Array:
        """Map [B, H, W, C] to logits float32 [B, *size, channels]."""
        del train
        width = features.shape[-1]
        x = Conv(width, 3, 1, 1, use_bias=True, dtype=self.dtype, kernel_init=xavier, name="conv")(features)
        return resize(head(self.channels, self.dtype, name="head")(x), size)


class SegNetMTAN(BranchedNetwork):
    """A SegNet that all tasks share, and per task attention at each stage of its encoder and decoder, and a head.

    SegNet enlarges a map by putting each value where its maximum was before pooling. A task's attended map goes from
    stage to stage by convolutions that all tasks share, `narrow<stage>` and `widen<stage>`.

    Parameters are `encoder<stage>_<n>/...`, `decoder<stage>_<n>/...`, `narrow<stage>/...` and `widen<stage>/...`
    (shared), `attend<stage>_<task>/...`, `reattend<stage>_<task>/...` and `decoder_<task>/...`. There are no pretrained
    weights, and `backbone` has no influence.

    Differences from the authors' code: convolutions in front of BatchNorm have no bias, which it would take away; maps
    are enlarged with half-pixel centers (there with aligned corners); and sizes need not be multiples of 32. Nash-MTL's
    code counts the attention of a task as shared; here it is the task's own.

    Attributes:
        widths: channels of the five stages.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)

    @nn.nowrap
    def _check(self) -> None:
        if len(self.widths) != _STAGES:
            raise ValueError(f"widths is {self.widths}: give the channels of {_STAGES} stages")
        check_whole({"widths": self.widths})

    def setup(self) -> None:
        def block(features: int) -> Any:
            return ConvBlock(features, 3, padding=1, kernel_init=xavier, **self.common)

        attention = self.rematted(Attention, 2)
        last = _STAGES - 1
        for stage, (width, convolutions) in enumerate(zip(self.widths, _CONVOLUTIONS, strict=True)):
            before, behind = self.widths[max(0, stage - 1)], self.widths[min(last, stage + 1)]
            for n in range(1 + convolutions):
                setattr(self, f"encoder{stage}_{n}", block(width))
                setattr(self, f"decoder{stage}_{n}", block(before))
            setattr(self, f"narrow{stage}", block(behind))
            setattr(self, f"widen{stage}", block(width if stage == last else before))
            for task in self.heads:
                setattr(self, f"attend{stage}_{task}", attention(width, **self.common))
                setattr(self, f"reattend{stage}_{task}", attention(before, **self.common))
        for task, channels in self.heads.items():
            setattr(self, f"decoder_{task}", Head(channels, **self.common))

    @property
    def encoders(self) -> tuple[str, ...]:
        """None: there are no pretrained weights."""
        return ()

    def encode(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Run the trunk: images to each task's last attended map, [B, H, W, 64]."""
        x = images.astype(self.dtype)
        inner, outer, places = [], [], []  # of the encoder's stages: the first map, the last one, and its maxima
        for stage in range(_STAGES):
            first, last = self._stage("encoder", stage, x, train)
            inner.append(first)
            outer.append(last)
            x, place = pool(last)
            places.append(place)
        enlarged, decoded = {}, {}
        for stage in reversed(range(_STAGES)):
            _, height, width, _ = outer[stage].shape
            enlarged[stage] = unpool(x, places[stage], (height, width))
            _, x = self._stage("decoder", stage, enlarged[stage], train)
            decoded[stage] = x
        return {task: self._attend(task, inner, outer, enlarged, decoded, train) for task in self.heads}

    def _stage(self, side: str, stage: int, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """The first and the last map of a stage."""
        first = x = getattr(self, f"{side}{stage}_0")(x, train)
        for n in range(1, 1 + _CONVOLUTIONS[stage]):
            x = getattr(self, f"{side}{stage}_{n}")(x, train)
        return first, x

    def _attend(self, task: str, inner: Any, outer: Any, enlarged: Any, decoded: Any, train: bool) -> jax.Array:
        x: jax.Array | None = None
        for stage in range(_STAGES):
            seen = inner[stage] if x is None else jnp.concatenate([inner[stage], x], axis=-1)
            attended = getattr(self, f"attend{stage}_{task}")(seen, train) * outer[stage]
            x, _ = pool(getattr(self, f"narrow{stage}")(attended, train))
        assert x is not None
        for stage in reversed(range(_STAGES)):
            size = (enlarged[stage].shape[1], enlarged[stage].shape[2])
            widened = getattr(self, f"widen{stage}")(resize(x, size), train)
            seen = jnp.concatenate([enlarged[stage], widened], axis=-1)
            x = getattr(self, f"reattend{stage}_{task}")(seen, train) * decoded[stage]
        return x

    def decode(self, features: Any, task: str, train: bool = False, *, size: tuple[int, int]) -> jax.Array:
        """Run the head of a task, see `BranchedNetwork`."""
        return super().decode(features[task], task, train, size=size)

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Return whether the parameter at that path ("encoder0_0/conv/kernel") serves all tasks."""
        return not path.startswith(("attend", "reattend", "decoder_"))

    @nn.nowrap
    def in_trunk(self, path: str) -> bool:
        """Return whether it belongs to `encode`: shared, or of the attention of a task."""
        return not path.startswith("decoder_")

    @nn.nowrap
    def last_shared(self, path: str) -> bool:
        """Return whether it belongs to the last convolution of SegNet."""
        return path.startswith(f"decoder0_{_CONVOLUTIONS[0]}/")


def pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """2×2 max pooling: the maxima [B, ⌈H/2⌉, ⌈W/2⌉, C], and which of its four pixels each is, int32, row by row.

    Of equal ones it is the first; outside is 0, as x is at least 0.
    """
    _, h, w, _ = x.shape
    windows = _windows(jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0))))
    place = jnp.argmax(windows, axis=3).astype(jnp.int32)
    # Not jnp.max: its gradient divides by how many values equal the maximum, and the compiler may compute these values
    # once more, rounded otherwise, and find none.
    return jnp.sum(jnp.where(_is_place(place), windows, jnp.zeros((), x.dtype)), axis=3), place


def unpool(x: jax.Array, place: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Put each value where its maximum was, and 0 elsewhere: [B, h, w, C] → [B, *size, C]."""
    b, h, w, c = x.shape
    windows = jnp.where(_is_place(place), x[:, :, :, None], jnp.zeros((), x.dtype))
    whole = windows.reshape(b, h, w, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c)
    return whole[:, : size[0], : size[1]]


def _is_place(place: jax.Array) -> jax.Array:
    """Which of a window's four pixels each place is: bool [B, h, w, 4, C]."""
    return place[:, :, :, None] == jnp.arange(4, dtype=jnp.int32).reshape(1, 1, 1, 4, 1)


def _windows(x: jax.Array) -> jax.Array:
    """[B, 2h, 2w, C] → [B, h, w, 4, C], row by row."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4, c)
