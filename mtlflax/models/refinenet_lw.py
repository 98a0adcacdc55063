"""The multi-task light-weight RefineNet (Nekrasov et al. 2019, arXiv:1809.04766)."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from mtlflax.models.encoders import encoder
from mtlflax.models.layers import BatchNorm, Conv, resize, scaled_normal
from mtlflax.models.network import BranchedNetwork, check_whole

# PyTorch's default variance. There is no normalisation in this decoder: from a larger
# one, maps would grow with each pooling of the chain and leave the range of ReLU6.
_init = scaled_normal(1 / 3, "in")


class Depthwise(nn.Module):
    """A depthwise 1×1 convolution: a factor for each channel, `kernel` [1, 1, 1, C]."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to the same shape."""
        kernel = self.param("kernel", _init, (1, 1, 1, x.shape[-1]))
        return x.astype(self.dtype) * kernel.astype(self.dtype)


class ChainedResidualPooling(nn.Module):
    """CRP: 5×5 maxima of stride 1 and a 1×1 convolution, chained, and all that the chain gives added to the input.

    Attributes:
        links: of the chain.
        depthwise: whether the convolutions are.
    """

    links: int
    depthwise: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to the same shape."""
        top = total = x
        for i in range(1, self.links + 1):
            name = f"conv{i}"
            if self.depthwise:
                conv: nn.Module = Depthwise(self.dtype, name=name)
            else:
                conv = Conv(x.shape[-1], dtype=self.dtype, kernel_init=_init, name=name)
            top = conv(_local_maxima(top))
            total = total + top
        return total


def _local_maxima(x: jax.Array) -> jax.Array:
    """5×5 max pooling of stride 1, padded by two: maxima of shifted maps, for the reason that `max_pool` gives."""
    for axis in (1, 2):
        pad = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        length, padded = x.shape[axis], jnp.pad(x, pad, constant_values=-jnp.inf)
        x = reduce(jnp.maximum, [lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(5)])
    return x


class Refinement(nn.Module):
    """The decoder of all tasks: from maps of strides 4 to 32 to one of stride 4.

    Each map is narrowed by a 1×1 convolution. From the coarsest on: CRP, a 1×1 convolution, bilinear enlargement, and
    fusion with the next map by a sum and ReLU6; the last CRP, on the finest map, is depthwise.

    Attributes:
        width: channels of all maps.
        links: of the chains of pooling.
        activated: for each map, whether it is normalised and rectified; else that is done here.
    """

    width: int
    links: int
    activated: tuple[bool, ...]
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...], train: bool) -> jax.Array:
        """Maps, finest first, to [B, H, W, width] on the first one's grid."""
        conv = partial(Conv, self.width, dtype=self.dtype, kernel_init=_init)
        narrowed = []
        for i, (x, activated) in enumerate(zip(maps, self.activated, strict=True)):
            if not activated:
                norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f"norm{i}")
                x = nn.relu(norm(x, train))
            narrowed.append(conv(name=f"narrow{i}")(x))

        x = nn.relu6(narrowed[-1])
        for i in reversed(range(len(maps))):
            x = ChainedResidualPooling(self.links, depthwise=i == 0, dtype=self.dtype, name=f"crp{i}")(x)
            if i > 0:
                finer = narrowed[i - 1]
                x = resize(conv(name=f"adapt{i}")(x), (finer.shape[1], finer.shape[2]))
                x = nn.relu6(finer + x)
        return x


class Branch(nn.Module):
    """A task's part: a depthwise 1×1 convolution, ReLU6 and a 3×3 convolution; its logits are enlarged."""

    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int], train: bool = False) -> jax.Array:
        """Maps [B, H, W, C] to logits float32 [B, *size, channels]; `train` changes nothing."""
        x = nn.relu6(Depthwise(self.dtype, name="depthwise")(x))
        # Nearly zero at first, so that the losses start at those of a guess, whatever the task.
        init, dtype = scaled_normal(1e-3, "in"), jnp.promote_types(self.dtype, jnp.float32)
        head = Conv(self.channels, 3, 1, 1, use_bias=True, dtype=dtype, kernel_init=init, name="head")
        return resize(head(x), size)


class LightWeightRefineNet(BranchedNetwork):
    """A shared encoder, a shared decoder of 1×1 convolutions, and a branch of two convolutions for each task.

    Parameters are `encoder/...` and `refinement/...` (shared), and `decoder_<task>/...`.

    The paper's encoder is MobileNet-v2, whose eight maps are paired into these four strides; ours have one map a
    stride. The decoder follows a public port of the authors' code, but for its start (there all kernels are drawn with
    a deviation of 0.01) and that DenseNet's raw maps are normalised first.

    Attributes:
        width: channels of the decoder.
        links: of its chains of residual pooling, from 1 on.
    """

    width: int = 256
    links: int = 4

    @nn.nowrap
    def check(self) -> None:
        """Raises ValueError, naming the attribute, for a network that there cannot be."""
        check_whole({"width": self.width, "links": self.links})

    def setup(self) -> None:
        """Builds the encoder, the decoder and the branches."""
        refinement, branch = Refinement, Branch
        if self.remat:  # the numbers are those of `train` and `size`
            refinement = nn.remat(Refinement, static_argnums=(2,))
            branch = nn.remat(Branch, static_argnums=(2, 3))
        self.encoder = encoder(self.backbone, remat=self.remat, **self.common)
        self.refinement = refinement(self.width, self.links, self.encoder.activated[1:], **self.common)
        for task, channels in self.heads.items():
            setattr(self, f"decoder_{task}", branch(channels, self.dtype))

    def encode(self, images: jax.Array, train: bool = False) -> jax.Array:
        """The shared part: images to the decoder's map, of stride 4."""
        return self.refinement(self.encoder(images, train)[1:], train)

    @nn.nowrap
    def size_of(self, features: jax.Array, task: str) -> tuple[int, int]:
        """Four times the map's."""
        return (4 * features.shape[1], 4 * features.shape[2])

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Whether the parameter at that path ("refinement/crp0/conv1/kernel") serves all tasks."""
        return path.startswith(("encoder/", "refinement/"))

    @nn.nowrap
    def last_shared(self, path: str) -> bool:
        """Whether it belongs to the last shared layers: the last fusion's convolutions and the CRP behind it."""
        return path.startswith(("refinement/narrow0/", "refinement/adapt1/", "refinement/crp0/"))
