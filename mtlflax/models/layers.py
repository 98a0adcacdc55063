"""The layers that all networks are made of: convolution, batch normalization, pooling.

All maps are [B, H, W, C]. Padding, constants and output sizes are PyTorch's, so that torchvision's weights mean the
same here. Parameters are float32 whatever the computation runs in.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from mtlflax.models.backward import isolated, moments, normalize
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
    def __call__(self, x: jax.Array | Sequence[jax.Array], norm: "Normalization | None" = None) -> jax.Array:
        """Return the convolution of x or, with a normalization, of relu(norm(x)), of type `dtype`.

        If x is several maps, it is their concatenation. Neither that nor the normalized map is kept for the backward
        pass of a CPU: they are computed again.
        """
        maps = tuple(x) if isinstance(x, list | tuple) else (x,)
        shape = (self.kernel_size, self.kernel_size, sum(x.shape[-1] for x in maps), self.features)
        kernel = self.param("kernel", self.kernel_init, shape)

        way = partial(convolve, stride=self.stride, padding=self.padding, dilation=self.dilation)
        kernel = kernel.astype(self.dtype)
        if norm is None:
            y = isolated(way, lambda maps, _: _join(maps).astype(self.dtype), maps, (), kernel)
        else:

            def prepare(given: tuple[Any, ...], statistics: tuple[Any, ...]) -> jax.Array:
                maps, scale, bias, mean, var = (*given, *statistics)
                same = norm.replace(scale=scale, bias=bias, mean=mean, var=var)
                return nn.relu(same(_join(maps)).astype(self.dtype))

            given: tuple[Any, ...] = maps, norm.scale, norm.bias
            statistics: tuple[Any, ...] = norm.mean, norm.var
            if not norm.own:  # running statistics have a gradient
                given, statistics = (*given, *statistics), ()
            y = isolated(way, prepare, given, statistics, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


def _join(maps: tuple[jax.Array, ...]) -> jax.Array:
    return jnp.concatenate(maps, axis=-1) if len(maps) > 1 else maps[0]


class Normalization(flax.struct.PyTreeNode):
    """What a BatchNorm does to its map: (x - mean) / sqrt(var + epsilon) · scale + bias, float32 [B, H, W, C]."""

    scale: jax.Array
    bias: jax.Array
    mean: jax.Array
    var: jax.Array
    epsilon: float = flax.struct.field(pytree_node=False)
    axis_name: str | None = flax.struct.field(pytree_node=False)  # over which the batch is spread, if any
    own: bool = flax.struct.field(pytree_node=False)  # whether the mean and variance are those of the batch

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the normalized map."""
        if self.own:
            return normalize(x, self.scale, self.bias, self.mean, self.var, self.epsilon, self.axis_name)
        multiplier = self.scale * lax.rsqrt(self.var + self.epsilon)
        y = (x.astype(jnp.float32) - self.mean[None, None, None]) * multiplier[None, None, None]
        return y + self.bias[None, None, None]


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

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return x, normalized by the statistics of the batch in training, else by the running ones.

        In training, a global batch of a single pixel, which has no variance, is a ValueError.
        """
        return self.prepare(x, train)(x).astype(self.dtype)

    @nn.compact
    def prepare(self, x: jax.Array, train: bool, known: Normalization | None = None) -> Normalization:
        """Return the normalization of x, to be computed by the convolution behind it.

        With `known`, the normalization of other channels of the same map, return that of these and of x behind them.
        """
        first = 0 if known is None else known.mean.shape[0]
        channels = (first + x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        axis_name = None if self.is_initializing() else self.axis_name
        made = partial(Normalization, scale, bias, epsilon=self.epsilon, axis_name=axis_name, own=train)
        if not train:
            return made(running_mean.value, running_var.value)

        # If a module is called twice in a step, the running mean depends on the values of the first call.
        origin = lax.stop_gradient(running_mean.value)
        mean, var = moments(x, origin[first:], axis_name)
        if known is not None:
            mean, var = jnp.concatenate([known.mean, mean]), jnp.concatenate([known.var, var])
        if not self.is_initializing():
            count = x.shape[0] * x.shape[1] * x.shape[2] * (lax.axis_size(axis_name) if axis_name else 1)
            if count == 1:
                raise ValueError("batch normalization of a single value: train with larger batches or images")
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * var * (count / (count - 1))
        return made(mean, var)


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
