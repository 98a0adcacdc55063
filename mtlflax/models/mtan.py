"""MTAN, the multi-task attention network (Liu et al. 2019, arXiv:1803.10704, section 3)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlflax.models.deeplab import add_heads, check_head
from mtlflax.models.encoders import activated, staged_encoder
from mtlflax.models.layers import BatchNorm, Conv, ConvBlock, Layer, max_pool
from mtlflax.models.network import BranchedNetwork
from mtlflax.models.resnet import Block

STAGES = 4


class Attention(Layer):
    """The attention of one task at one stage of the encoder: a mask on the map of the stage.

    The mask is σ(h(g([u; f]))), a number per pixel and channel, with g and h 1×1 convolutions with BatchNorm, and a
    ReLU behind g. u is a map inside the stage, f comes from the task's attention at the stage before.
    """

    @nn.compact
    def __call__(self, inner: jax.Array, outer: jax.Array, before: jax.Array | None, train: bool) -> jax.Array:
        """Return `outer`, the last map of the stage [B, H, W, C], masked; `inner` is u, `before` f, at first None."""
        channels = outer.shape[-1]
        x = inner if before is None else jnp.concatenate([inner, before], axis=-1)
        x = ConvBlock(channels // 4, **self.common, name="g")(x, train)
        x = Conv(channels, dtype=self.dtype, name="h_conv")(x)
        mask = nn.sigmoid(BatchNorm(**self.common, name="h_bn")(x, train))
        return mask * outer


class Extractor(Layer):
    """f, shared by all tasks: from an attended map to the input of the attention at the next stage.

    A bottleneck block, as in the authors' ResNet variant, and max pooling where the grid of the next stage is coarser.
    """

    @nn.compact
    def __call__(self, x: jax.Array, following: jax.Array, train: bool) -> jax.Array:
        """Return a map of the shape of `following`, the map of the next stage."""
        _, h, w, channels = following.shape
        block = Block(channels // 4, 1, bottleneck=True, **self.common, name="block")
        x = block(x, train)
        # ResNet rounds half an odd side up, as this pooling does; DenseNet rounds it down.
        return x if x.shape[1:3] == (h, w) else max_pool(x)[:, :h, :w]


class MTAN(BranchedNetwork):
    """A shared encoder, and per task attention at each of its four stages and a head.

    Parameters are `encoder/...` and `extractor<stage>/...` (shared), `attention<stage>_<task>/...` and
    `decoder_<task>/...`. Encoder and attention are the trunk: the extractors between the attentions are shared, so the
    network splits where the heads begin. A weighting at level "representation" therefore sees the gradient of each task
    on a map of its own, and no conflicts.

    The paper applies this to SegNet; for ResNet we follow the authors' code: u is the map before the last block of a
    stage, the attended map of the last stage goes into a `DeepLabHead`, the encoder is dilated to output stride 8, and
    g narrows to a quarter of the stage's channels. They have no DenseNet; there, u is the map before the last layer of
    a stage (in the last stage, before the last norm), and neither u nor the masked map is rectified.

    Differences from the authors' code: pooling is 3×3 instead of 2×2, so that any size will do. `output_stride`,
    `atrous_rates` and `aspp_channels` are as in `DeepLabV3Plus`.
    """

    output_stride: int = 8
    atrous_rates: tuple[int, ...] = (12, 24, 36)
    aspp_channels: int = 256

    @nn.nowrap
    def _check(self) -> None:
        check_head(self.output_stride, self.atrous_rates, self.aspp_channels)

    def setup(self) -> None:
        attention, extractor = self.rematted(Attention, 4), self.rematted(Extractor, 3)
        self.encoder = staged_encoder(self.backbone, output_stride=self.output_stride, remat=self.remat, **self.common)
        for stage in range(1, STAGES + 1):
            for task in self.heads:
                setattr(self, f"attention{stage}_{task}", attention(**self.common))
            if stage < STAGES:
                setattr(self, f"extractor{stage}", extractor(**self.common))
        add_heads(self, 0, activated(self.encoder)[-1:])

    def encode(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Run the trunk: images to the attended map of the last stage, per task."""
        x, stages = self.encoder.stem(images, train), []
        for stage in range(STAGES):
            *_, inner, x = self.encoder.stage(stage, x, train)
            stages.append((inner, x))

        attended: dict[str, jax.Array] = {}
        for stage, (inner, outer) in enumerate(stages, start=1):
            for task in self.heads:
                before = None
                if stage > 1:
                    before = getattr(self, f"extractor{stage - 1}")(attended[task], outer, train)
                attended[task] = getattr(self, f"attention{stage}_{task}")(inner, outer, before, train)
        return attended

    def decode(self, features: Any, task: str, train: bool = False, *, size: tuple[int, int]) -> jax.Array:
        """Run the head of a task, see `BranchedNetwork`."""
        return super().decode((features[task],), task, train, size=size)

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Return whether the parameter at that path ("encoder/conv1/kernel") serves all tasks."""
        return path.startswith(("encoder/", "extractor"))

    @nn.nowrap
    def in_trunk(self, path: str) -> bool:
        """Return whether it belongs to `encode`: shared, or of the attention of a task."""
        return not path.startswith("decoder_")
