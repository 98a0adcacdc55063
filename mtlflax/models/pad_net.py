"""PAD-Net, the prediction-and-distillation network (Xu et al. 2018, arXiv:1805.04409)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mtlflax.models.encoders import encoder
from mtlflax.models.layers import BatchNorm, Conv, ConvBlock, resize, scaled_normal
from mtlflax.models.network import Network, check_whole

STRIDES = (4, 8, 16)

# The sigmoid must not start saturated, however many channels are summed.
_init = scaled_normal(1.0, "in")


class Aggregation(nn.Module):
    """The encoder's maps on one grid: each narrowed by a 1×1 convolution, enlarged to the finest, and fused by another.

    Attributes:
        width: channels of each and of the result.
        activated: for each map, whether it is normalised and rectified; else that is done here.
    """

    width: int
    activated: tuple[bool, ...]
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...], train: bool) -> jax.Array:
        """Maps, the first and finest [B, H, W, C], to [B, H, W, width]."""
        block = partial(ConvBlock, self.width, axis_name=self.axis_name, dtype=self.dtype)
        size, parts = (maps[0].shape[1], maps[0].shape[2]), []
        for i, (x, activated) in enumerate(zip(maps, self.activated, strict=True)):
            if not activated:
                norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f"norm{i}")
                x = nn.relu(norm(x, train))
            parts.append(resize(block(name=f"narrow{i}")(x, train), size))
        return block(name="fuse")(jnp.concatenate(parts, axis=-1), train)


class Initial(nn.Module):
    """A task's initial prediction: a 3×3 convolution with BatchNorm and ReLU, and a 1×1 convolution.

    Attributes:
        channels: of the prediction.
        width: of the map before it.
    """

    channels: int
    width: int
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Shared features [B, H, W, C] to the task's map [B, H, W, width] and logits float32 [B, H, W, channels]."""
        x = ConvBlock(self.width, 3, 1, axis_name=self.axis_name, dtype=self.dtype, name="block")(x, train)
        return x, _head(self.channels, self.dtype, 1.0)(x)  # of variance 1: PAD-Net goes on from these logits


class Distillation(nn.Module):
    """What one task k takes of the others: attention-guided message passing, the paper's module C.

    F_k + Σ_{t≠k} σ(W_g * F_k) ⊙ (W_t * F_t): the attention, of the task's own map, says for each pixel and channel how
    much of the other tasks' messages passes. Here each W is a 3×3 convolution, and W_t is k's own.

    Attributes:
        task: k.
    """

    task: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Mapping[str, jax.Array]) -> jax.Array:
        """All tasks' maps, each [B, H, W, C], to the distilled one."""
        own = maps[self.task]
        conv = partial(Conv, own.shape[-1], 3, 1, 1, dtype=self.dtype, kernel_init=_init)
        attention = nn.sigmoid(conv(use_bias=True, name="attention")(own))
        messages = [conv(name=f"message_{task}")(x) for task, x in maps.items() if task != self.task]
        return own + attention * sum(messages[1:], messages[0])


class Reconstruction(nn.Module):
    """A task's final prediction: twice, the map is doubled bilinearly, and a 3×3 convolution halves its channels.

    A 1×1 convolution is the head; its logits are enlarged.

    Attributes:
        channels: of the head, e.g. the number of classes.
    """

    channels: int
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int], train: bool) -> jax.Array:
        """Maps [B, H, W, C] to logits float32 [B, *size, channels]."""
        for i in (1, 2):
            _, h, w, width = x.shape
            block = ConvBlock(max(width // 2, 1), 3, 1, axis_name=self.axis_name, dtype=self.dtype, name=f"block{i}")
            x = block(resize(x, (2 * h, 2 * w)), train)
        # Nearly zero at first, so that the losses start at those of a guess, whatever the task.
        return resize(_head(self.channels, self.dtype, 1e-3)(x), size)


def _head(channels: int, dtype: DTypeLike, gain: float) -> Conv:
    """The last convolution of a prediction."""
    init, wide = scaled_normal(gain, "in"), jnp.promote_types(dtype, jnp.float32)
    return Conv(channels, use_bias=True, dtype=wide, kernel_init=init, name="head")


class PADNet(Network):
    """A shared encoder, an initial prediction for each task, and final ones from what the initial ones tell each other.

    Parameters are `encoder/...`, `aggregation/...`, `initial_<task>/...` and `features_<task>/...`, on which all
    tasks' losses depend, and `distillation_<task>/...` and `decoder_<task>/...`, which serve one. In training the
    outputs hold `{task}/aux/initial` too.

    As in the paper, distillation sees the initial predictions themselves: a 3×3 convolution makes a map of each. The
    paper's auxiliary tasks are more than its final ones (contours and surface normals beside segmentation and depth);
    here each task has both predictions. Also ours: where the encoder's maps are brought together (`stride`), and
    bilinear enlargement with a convolution behind it for the paper's deconvolutions.

    Attributes:
        stride: 4, 8 or 16: that of the initial predictions and of the distillation.
        width: channels of the maps there.
    """

    stride: int = 8
    width: int = 256

    fewest: ClassVar[int] = 2

    @nn.nowrap
    def check(self) -> None:
        """Raises ValueError, naming the attribute, for a network that there cannot be."""
        check_guided(self)

    def setup(self) -> None:
        """Builds the encoder and what stands behind it."""
        decoder = nn.remat(Reconstruction, static_argnums=(2, 3)) if self.remat else Reconstruction
        self.encoder = encoder(self.backbone, remat=self.remat, **self.common)
        self.aggregation = Aggregation(self.width, coarse(self.encoder.activated, self.stride), **self.common)
        for task, channels in self.heads.items():
            setattr(self, f"initial_{task}", Initial(channels, self.width, **self.common))
            # Of few channels many are made: by the width of the result, the map would start far too small.
            features = ConvBlock(self.width, 3, 1, kernel_init=scaled_normal(2.0, "in"), **self.common)
            setattr(self, f"features_{task}", features)
            setattr(self, f"distillation_{task}", Distillation(task, self.dtype))
            setattr(self, f"decoder_{task}", decoder(channels, **self.common))

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Images [B, H, W, 3], normalised, to logits: task → float32 [B, H, W, channels], and in training the initial.

        The latter are `{task}/aux/initial`, of the same shape.
        """
        size = (images.shape[1], images.shape[2])
        x = self.aggregation(coarse(self.encoder(images, train), self.stride), train)
        initial = {task: getattr(self, f"initial_{task}")(x, train)[1] for task in self.heads}
        maps = {task: getattr(self, f"features_{task}")(y, train) for task, y in initial.items()}
        outputs = {}
        for task in self.heads:
            distilled = getattr(self, f"distillation_{task}")(maps)
            outputs[task] = getattr(self, f"decoder_{task}")(distilled, size, train)
        if train:
            outputs |= {f"{task}/aux/initial": resize(y, size) for task, y in initial.items()}
        return outputs

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Whether more than one task's loss depends on the parameter at that path ("initial_depth/head/kernel")."""
        return not path.startswith(("distillation_", "decoder_"))


def coarse(of_maps: tuple[Any, ...], stride: int) -> tuple[Any, ...]:
    """Of five things, one a map of strides 2 to 32, those of that stride and coarser."""
    return of_maps[1 + STRIDES.index(stride) :]


def check_guided(model: Any) -> None:
    """Raises ValueError, naming the option, for what a network in which tasks guide each other cannot have."""
    check_whole({"stride": model.stride})
    if model.stride not in STRIDES:
        raise ValueError(f"stride is {model.stride}: choose one of {STRIDES}")
    check_whole({"width": model.width})
