"""The layers that all networks are made of: convolution, batch normalization, pooling, resizing.

All maps are [B, H, W, C]. Padding, constants and output sizes are PyTorch's, so that torchvision's weights mean the
same here. Parameters are float32 whatever the computation runs in.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from mtlflax.models.backward import isolated, normalize
from mtlflax.models.convolution import convolve

Initializer = Callable[..., Any]

_BLOCK = 16384


class Layer(nn.Module, kw_only=True):
    """The base class of modules with batch statistics, networks included, and of what goes with them.

    Attributes:
        axis_name: mapped axis for synchronized batch statistics; each device must have equally many pixels.
        dtype: of the computation and of the results; parameters and batch statistics are float32.
    """

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @property
    def common(self) -> dict[str, Any]:
        """Both, for the modules inside."""
        return {"axis_name": self.axis_name, "dtype": self.dtype}


def scaled_normal(gain: float, fan: Literal["in", "out"]) -> Initializer:
    """Return an initializer of kernels [k, k, C, features]: normal, of variance gain / (k² C) or gain / (k² features).

    With gain 2 this is torchvision's `kaiming_normal_`: fan "out" in its ResNet, "in" in DenseNet. The numbers are
    drawn in blocks of one size, since XLA compiles the generator again for each shape, which takes 0.8 s on a CPU: with
    one draw per kernel, the init of a network would take 20 s to compile.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        count = math.prod(shape)
        indices = jnp.arange(-(-count // _BLOCK))
        blocks = lax.map(lambda i: jax.random.normal(jax.random.fold_in(key, i), (_BLOCK,), dtype), indices)
        deviation = math.sqrt(gain * shape[3 if fan == "in" else 2] / count)
        return deviation * blocks.reshape(-1)[:count].reshape(shape)

    return init


class Conv(nn.Module):
    """A square convolution padded as in PyTorch: [B, H, W, C] -> [B, H', W', features].

    H' = floor((H + 2 padding - dilation (kernel_size - 1) - 1) / stride) + 1. Parameters are named and laid out as
    those of `flax.linen.Conv`: `kernel` [k, k, C, features] and, if `use_bias`, `bias` [features].
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0  # zeros on each side (strided "SAME" would sample a shifted grid, google/flax#963)
    dilation: int = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32  # of the computation and of the result
    kernel_init: Initializer = scaled_normal(2.0, "out")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the convolution of x, of type `dtype`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        way = partial(convolve, stride=self.stride, padding=self.padding, dilation=self.dilation)
        y = isolated(way, x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


class BatchNorm(Layer):
    """Batch normalization over all axes but the channels, as in PyTorch's `nn.BatchNorm2d`.

    Parameters `scale`, `bias`, running statistics `mean`, `var` in the collection "batch_stats": as in
    `flax.linen.BatchNorm`, from which it differs in one respect. As in PyTorch, the running variance is the *unbiased*
    one (n / (n - 1) times the batch's, n the pixels of the whole batch), so that training from the same weights stays
    equal to torchvision's. Batches are normalized by the biased variance in both. Half precision is widened to float32
    before summing. `momentum` is the share of the running statistics that is kept; PyTorch's is 1 - this.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return x, normalized by the statistics of the batch in training, else by the running ones.

        In training, a global batch of a single pixel, which has no variance, is a ValueError.
        """
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)

        if not train:
            multiplier = scale * lax.rsqrt(running_var.value + self.epsilon)
            y = (x.astype(jnp.float32) - running_mean.value[None, None, None]) * multiplier[None, None, None]
            return (y + bias[None, None, None]).astype(self.dtype)

        axis_name = None if self.is_initializing() else self.axis_name
        # If a module is called twice in a step, the running mean depends on the values of the first call.
        origin = lax.stop_gradient(running_mean.value)
        y, mean, var = normalize(x, scale, bias, origin, self.epsilon, axis_name)
        if not self.is_initializing():
            count = x.shape[0] * x.shape[1] * x.shape[2] * (lax.axis_size(axis_name) if axis_name else 1)
            if count == 1:
                raise ValueError("batch normalization of a single value: train with larger batches or images")
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * var * (count / (count - 1))
        return y.astype(self.dtype)


class ConvBlock(Layer):
    """A convolution, BatchNorm and ReLU: [B, H, W, C] -> [B, H', W', features], as `Conv`."""

    features: int
    kernel_size: int = 1
    padding: int = 0
    dilation: int = 1
    kernel_init: Initializer = scaled_normal(2.0, "out")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the activated map."""
        k, p, d = self.kernel_size, self.padding, self.dilation
        conv = Conv(self.features, k, 1, p, d, dtype=self.dtype, kernel_init=self.kernel_init, name="conv")
        return nn.relu(BatchNorm(**self.common, name="bn")(conv(x), train))


def xavier(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Initialize a kernel [k, k, C, features] as PyTorch's `xavier_normal_`: of variance 2 / (k² (C + features))."""
    gain = 2.0 * shape[2] / (shape[2] + shape[3])
    return scaled_normal(gain, "in")(key, shape, dtype)


# The initialization behind a sigmoid, which must not start saturated, however many channels are summed.
unsaturated = scaled_normal(1.0, "in")


def max_pool(x: jax.Array) -> jax.Array:
    """3×3 max pooling, stride 2, padded by one: [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C].

    Written as maxima of slices: the backward pass of `lax.reduce_window` takes ten times as long on a CPU (66 ms
    against 5 for [8, 48, 96, 64] on two cores). Maxima that tie share the gradient.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    h, w = x.shape[1] - 2, x.shape[2] - 2  # windows start at 0, 2, 4, ... below these
    x = jnp.maximum(jnp.maximum(x[:, 0:h:2], x[:, 1 : h + 1 : 2]), x[:, 2 : h + 2 : 2])
    return jnp.maximum(jnp.maximum(x[:, :, 0:w:2], x[:, :, 1 : w + 1 : 2]), x[:, :, 2 : w + 2 : 2])


def average_pool(x: jax.Array) -> jax.Array:
    """2×2 average pooling, stride 2: [B, H, W, C] -> [B, floor(H/2), floor(W/2), C]."""
    b, h, w, c = x.shape
    h, w = h // 2, w // 2
    return x[:, : 2 * h, : 2 * w].reshape(b, h, 2, w, 2, c).mean((2, 4))


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resizing with half-pixel centers: [B, H, W, C] -> [B, *size, C].

    PyTorch's `interpolate(mode="bilinear", align_corners=False)`. Enlarging by a whole factor (what a decoder does
    unless sizes are odd) uses shifts and weighted sums, 2 to 3 times as fast on a CPU as `jax.image.resize`.
    """
    for axis, target in ((1, size[0]), (2, size[1])):
        length = x.shape[axis]
        if target == length:
            continue
        if target % length == 0:
            x = _enlarge(x, axis, target // length)
        else:
            shape = (*x.shape[:axis], target, *x.shape[axis + 1 :])
            x = jax.image.resize(x, shape, "bilinear", antialias=False)
    return x


def _enlarge(x: jax.Array, axis: int, factor: int) -> jax.Array:
    """Enlarge one axis bilinearly by a whole factor; outside, the edge value continues."""
    length = x.shape[axis]
    first = lax.slice_in_dim(x, 0, 1, axis=axis)
    last = lax.slice_in_dim(x, length - 1, length, axis=axis)
    before = jnp.concatenate([first, lax.slice_in_dim(x, 0, length - 1, axis=axis)], axis)
    after = jnp.concatenate([lax.slice_in_dim(x, 1, length, axis=axis), last], axis)
    phases = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5  # of the new pixel's center from the old one's
        neighbor = after if offset > 0 else before
        phases.append((1 - abs(offset)) * x + abs(offset) * neighbor)
    y = jnp.stack(phases, axis + 1)
    return y.reshape(*x.shape[:axis], factor * length, *x.shape[axis + 1 :])
