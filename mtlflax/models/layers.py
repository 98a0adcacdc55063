"""What every network here is made of: convolution, batch normalisation, pooling, resizing.

All maps are [B, H, W, C]. Padding, constants and output sizes are PyTorch's, so that torchvision's
weights mean the same here. Parameters are float32 whatever the computation runs in.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

Initializer = Callable[..., Any]

_BLOCK = 16384


def scaled_normal(gain: float, fan: Literal["in", "out"]) -> Initializer:
    """Initialises kernels [k, k, C, features]: normal, of variance gain / (k² C) or (k² features).

    With gain 2 this is torchvision's `kaiming_normal_`: fan "out" in its ResNet, "in" in DenseNet.

    The numbers are drawn in blocks of one size, since XLA compiles the generator anew for each
    shape, 0.8 s on a CPU: in one draw a kernel, a network's init would take 20 s to compile.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        count = math.prod(shape)
        blocks = lax.map(
            lambda i: jax.random.normal(jax.random.fold_in(key, i), (_BLOCK,), dtype),
            jnp.arange(-(-count // _BLOCK)),
        )
        deviation = math.sqrt(gain * shape[3 if fan == "in" else 2] / count)
        return deviation * blocks.reshape(-1)[:count].reshape(shape)

    return init


class Conv(nn.Module):
    """A square convolution padded as in PyTorch: [B, H, W, C] -> [B, H', W', features].

    H' = floor((H + 2 padding - dilation (kernel_size - 1) - 1) / stride) + 1. Parameters are named and laid out as
    those of `flax.linen.Conv`: `kernel` [k, k, C, features] and, if `use_bias`, `bias` [features].

    Attributes:
        padding: zeros on each side (strided "SAME" would sample a shifted grid, google/flax#963).
        dtype: of the computation and of the result.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = scaled_normal(2.0, "out")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the convolution of x, of type `dtype`."""
        k, s, p = self.kernel_size, self.stride, self.padding
        kernel = self.param("kernel", self.kernel_init, (k, k, x.shape[-1], self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if k == 1 and p == 0:
            # As a matmul: a ResNet-50 train step takes 0.84 s on two CPU cores instead of 1.41.
            y = x[:, ::s, ::s] @ kernel[0, 0]
        else:
            y = lax.conv_general_dilated(
                x,
                kernel,
                (s, s),
                ((p, p), (p, p)),
                rhs_dilation=(self.dilation, self.dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


class BatchNorm(nn.Module):
    """Batch normalisation over all but the channels, as in PyTorch's `nn.BatchNorm2d`.

    Parameters `scale`, `bias`, running statistics `mean`, `var` in the collection "batch_stats":
    those of `flax.linen.BatchNorm`, from which it differs in one thing. As in PyTorch, the running
    variance is the *unbiased* one (n / (n - 1) times the batch's, n the pixels of the whole batch),
    so that training from the same weights stays equal to torchvision's. Batches are normalised with
    the biased variance in both. Half precision is widened to float32 before anything is summed.

    Attributes:
        momentum: share of the running statistics that is kept; PyTorch's `momentum` is 1 - this.
        axis_name: a mapped axis to take the statistics over; each device has as many pixels.
        dtype: of the result.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns x, normalised by the batch's statistics in training, else by the running ones.

        Raises:
            ValueError: in training, the whole batch has one pixel: it has no variance.
        """
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))

        if train:
            mean, var, count = self._batch_statistics(x, running_mean.value)
            if not self.is_initializing():
                if count == 1:
                    raise ValueError("batch normalisation of one value: train with more frames or larger ones")
                unbiased = var * (count / (count - 1))
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        else:
            mean, var = running_mean.value, running_var.value

        multiplier = scale * lax.rsqrt(var + self.epsilon)
        y = (x - mean[None, None, None]) * multiplier[None, None, None] + bias[None, None, None]
        return y.astype(self.dtype)

    def _batch_statistics(self, x: jax.Array, origin: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean [C] and biased variance [C] of the whole batch, and how many pixels it has.

        One pass over x gives both moments. They are taken about the running mean: the variance
        does not depend on the origin, but about zero it loses its digits where the mean is large.
        """
        axes = (0, 1, 2)
        # Where a module is called twice in a step, the running mean is that of the first call's values.
        origin = lax.stop_gradient(origin)
        centred = x - origin[None, None, None]
        moments = jnp.stack([centred.mean(axes), jnp.square(centred).mean(axes)])
        count = x.shape[0] * x.shape[1] * x.shape[2]
        if self.axis_name is not None and not self.is_initializing():
            moments = lax.pmean(moments, self.axis_name)
            count *= lax.axis_size(self.axis_name)
        shift, square = moments
        return origin + shift, jnp.maximum(square - jnp.square(shift), 0.0), count


class ConvBlock(nn.Module):
    """A convolution, BatchNorm and ReLU: [B, H, W, C] -> [B, H', W', features], as `Conv`.

    Attributes:
        axis_name: as BatchNorm's.
        dtype: of the computation and of the result.
    """

    features: int
    kernel_size: int = 1
    padding: int = 0
    dilation: int = 1
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = scaled_normal(2.0, "out")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns the rectified map."""
        k, p, d = self.kernel_size, self.padding, self.dilation
        conv = Conv(self.features, k, 1, p, d, dtype=self.dtype, kernel_init=self.kernel_init, name="conv")
        return nn.relu(BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="bn")(conv(x), train))


def check_output_stride(output_stride: int) -> None:
    """Raises ValueError for one that encoders do not have."""
    if not isinstance(output_stride, int) or output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride is {output_stride}: choose 8, 16 or 32")


def dilation(stage: int, output_stride: int) -> int:
    """Of an encoder's stage, 0 to 3, which would give stride 4 to 32 if its strides did not stop at `output_stride`."""
    return max(1, 4 * 2**stage // output_stride)


def max_pool(x: jax.Array) -> jax.Array:
    """3×3 max pooling, stride 2, padded by one: [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C].

    Written as maxima of slices: the backward pass of `lax.reduce_window` takes ten times as long on
    a CPU (66 ms against 5 for [8, 48, 96, 64] on two cores). Maxima that tie share the gradient.
    """
    pad = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jnp.pad(x, pad, constant_values=-jnp.inf)
    h, w = x.shape[1] - 2, x.shape[2] - 2  # windows start at 0, 2, 4, ... below these
    x = jnp.maximum(jnp.maximum(x[:, 0:h:2], x[:, 1 : h + 1 : 2]), x[:, 2 : h + 2 : 2])
    return jnp.maximum(jnp.maximum(x[:, :, 0:w:2], x[:, :, 1 : w + 1 : 2]), x[:, :, 2 : w + 2 : 2])


def average_pool(x: jax.Array) -> jax.Array:
    """2×2 average pooling, stride 2: [B, H, W, C] -> [B, floor(H/2), floor(W/2), C]."""
    b, h, w, c = x.shape
    h, w = h // 2, w // 2
    return x[:, : 2 * h, : 2 * w].reshape(b, h, 2, w, 2, c).mean((2, 4))


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resizing with half-pixel centres: [B, H, W, C] -> [B, *size, C].

    PyTorch's `interpolate(mode="bilinear", align_corners=False)`. Enlarging by a whole factor (what
    a decoder does unless sizes are odd) is done by shifts and weighted sums, some 2 to 3 times as
    fast on a CPU as `jax.image.resize`.
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
    """Bilinear enlargement of one axis by a whole factor; the edge value goes on outside."""
    length = x.shape[axis]
    first = lax.slice_in_dim(x, 0, 1, axis=axis)
    last = lax.slice_in_dim(x, length - 1, length, axis=axis)
    before = jnp.concatenate([first, lax.slice_in_dim(x, 0, length - 1, axis=axis)], axis)
    after = jnp.concatenate([lax.slice_in_dim(x, 1, length, axis=axis), last], axis)
    phases = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5  # of the new pixel's centre from the old one's
        neighbour = after if offset > 0 else before
        phases.append((1 - abs(offset)) * x + abs(offset) * neighbour)
    y = jnp.stack(phases, axis + 1)
    return y.reshape(*x.shape[:axis], factor * length, *x.shape[axis + 1 :])
