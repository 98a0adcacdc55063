"""The multi-task light-weight RefineNet (Nekrasov et al. 2019, arXiv:1809.04766)."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mtlflax.models.blocks import activate, head
from mtlflax.models.checks import check_whole
from mtlflax.models.encoders import activated, encoder
from mtlflax.models.layers import Conv, Layer, scaled_normal
from mtlflax.models.network import BranchedNetwork
from mtlflax.models.resize import resize

# PyTorch's default variance. This decoder has no normalization: with a larger variance, maps would grow with each
# pooling of the chain and leave the range of ReLU6.
_init = scaled_normal(1 / 3, "in")


class Depthwise(Layer):
    """A depthwise 1×1 convolution: a factor per channel, `kernel` [1, 1, 1, C]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, C] to the same shape."""
        kernel = self.param("kernel", _init, (1, 1, 1, x.shape[-1]))
        return x.astype(self.dtype) * kernel.astype(self.dtype)


class ChainedResidualPooling(Layer):
    """CRP: a chain of 5×5 maxima of stride 1 and 1×1 convolutions, whose outputs are all added to the input."""

    links: int  # the length of the chain
    depthwise: bool = False  # whether the convolutions are depthwise

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, C] to the same shape."""
        top = total = x
        for i in range(1, self.links + 1):
            name = f"conv{i}"
            if self.depthwise:
                conv: nn.Module = Depthwise(dtype=self.dtype, name=name)
            else:
                conv = Conv(x.shape[-1], dtype=self.dtype, kernel_init=_init, name=name)
            top = conv(_local_maxima(top))
            total = total + top
        return total


def _local_maxima(x: jax.Array) -> jax.Array:
    """Apply 5×5 max pooling of stride 1, padded by two: maxima of shifted maps, for the reason given in `max_pool`."""
    for axis in (1, 2):
        pad = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        length, padded = x.shape[axis], jnp.pad(x, pad, constant_values=-jnp.inf)
        x = reduce(jnp.maximum, [lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(5)])
    return x


class Refinement(Layer):
    """The shared decoder: from maps of strides 4 to 32 to one of stride 4.

    Each map is narrowed by a 1×1 convolution. Then, from the coarsest on: CRP, a 1×1 convolution, bilinear enlargement,
    and fusion with the next map by a sum and ReLU6. The last CRP, on the finest map, is depthwise.
    """

    width: int  # channels of all maps
    links: int  # the length of the chains of pooling
    activated: tuple[bool, ...]  # whether each map is normalized and rectified already

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...], train: bool) -> jax.Array:
        """Map features, finest first, to [B, H, W, width] on the grid of the first."""
        conv = partial(Conv, self.width, dtype=self.dtype, kernel_init=_init)
        ready = activate(maps, self.activated, train, **self.common)
        narrowed = [conv(name=f"narrow{i}")(x) for i, x in enumerate(ready)]
        x = nn.relu6(narrowed[-1])
        for i in reversed(range(len(maps))):
            x = ChainedResidualPooling(self.links, depthwise=i == 0, dtype=self.dtype, name=f"crp{i}")(x)
            if i > 0:
                finer = narrowed[i - 1]
                x = resize(conv(name=f"adapt{i}")(x), (finer.shape[1], finer.shape[2]))
                x = nn.relu6(finer + x)
        return x


class Branch(Layer):
    """The branch of a task: a depthwise 1×1 convolution, ReLU6 and a 3×3 convolution; the logits are enlarged."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int], train: bool = False) -> jax.Array:
        """Map features [B, H, W, C] to logits float32 [B, *size, channels]; `train` changes nothing."""
        x = nn.relu6(Depthwise(dtype=self.dtype, name="depthwise")(x))
        return resize(head(self.channels, self.dtype, kernel_size=3, name="head")(x), size)


class LightWeightRefineNet(BranchedNetwork):
    """A shared encoder, a shared decoder of 1×1 convolutions, and a branch of two convolutions per task.

    Parameters are `encoder/...` and `refinement/...` (shared), and `decoder_<task>/...`.

    Differences from the paper: its encoder is MobileNet-v2, whose eight maps are paired into these four strides; ours
    have one map per stride. The decoder follows a public port of the authors' code, except for the initial values
    (there all kernels are drawn with a standard deviation of 0.01) and the normalization of DenseNet's raw maps.

    Attributes:
        width: channels of the decoder.
        links: the length of its chains of residual pooling, at least 1.
    """

    width: int = 256
    links: int = 4

    @nn.nowrap
    def _check(self) -> None:
        check_whole({"width": self.width, "links": self.links})

    def setup(self) -> None:
        refinement, branch = self.rematted(Refinement, 2), self.rematted(Branch, 2, 3)
        self.encoder = encoder(self.backbone, remat=self.remat, **self.common)
        self.refinement = refinement(self.width, self.links, activated(self.encoder)[1:], **self.common)
        for task, channels in self.heads.items():
            setattr(self, f"decoder_{task}", branch(channels, **self.common))

    def encode(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Run the trunk: images to the shared decoder's map, of stride 4."""
        return self.refinement(self.encoder(images, train)[1:], train)

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Return whether the parameter at that path ("refinement/crp0/conv1/kernel") serves all tasks."""
        return path.startswith(("encoder/", "refinement/"))

    @nn.nowrap
    def last_shared(self, path: str) -> bool:
        """Return whether it belongs to the last shared layers: those of the last fusion, and the CRP behind it."""
        return path.startswith(("refinement/narrow0/", "refinement/adapt1/", "refinement/crp0/"))
