"""How a convolution is computed: which of four ways, by the kernel's and the map's size."""

import jax
import jax.numpy as jnp
from jax import lax

from mtlflax.models import winograd
from mtlflax.models.backward import pointwise


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int, dilation: int) -> jax.Array:
    """Convolve [B, H, W, C] with a square kernel [k, k, C, K]: [B, H', W', K], H' as in `layers.Conv`.

    Args:
        x: the map.
        kernel: of x's dtype, which is also that of the result.
        stride: in pixels, along both axes.
        padding: pixels of zeros on each side.
        dilation: distance of the kernel's taps in pixels.
    """
    k = kernel.shape[0]
    if k == 1 and padding == 0:
        # As a matmul: a ResNet-50 train step takes 0.84 s on two CPU cores instead of 1.41.
        return pointwise(x[:, ::stride, ::stride], kernel[0, 0])
    height, width = (output_size(n, k, stride, padding, dilation) for n in x.shape[1:3])
    if min(height * width, x.shape[1] * x.shape[2]) < k * k:
        return pointwise(patches(x, k, stride, padding, dilation), kernel.reshape(-1, kernel.shape[3]))
    if (k, stride, padding, dilation) == (3, 1, 1, 1):
        return winograd.convolve(x, kernel)
    pads, dilations, axes = ((padding, padding),) * 2, (dilation, dilation), ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, rhs_dilation=dilations, dimension_numbers=axes)


def output_size(size: int, k: int, stride: int, padding: int, dilation: int) -> int:
    """The height or width of the result, given that of the map."""
    return (size + 2 * padding - dilation * (k - 1) - 1) // stride + 1


def patches(x: jax.Array, k: int, stride: int, padding: int, dilation: int) -> jax.Array:
    """What the kernel covers at each of its places: [B, H, W, C] -> [B, H', W', k² C], channels innermost.

    For maps or results with fewer pixels than the kernel. XLA would let map and kernel exchange roles there, which on a
    CPU leaves it with its slowest loop (tests/benchmarks/README.md). For larger maps the copies would take too long.
    """
    height, width = (output_size(n, k, stride, padding, dilation) for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = [slice(i * dilation, i * dilation + stride * (height - 1) + 1, stride) for i in range(k)]
    columns = [slice(j * dilation, j * dilation + stride * (width - 1) + 1, stride) for j in range(k)]
    return jnp.concatenate([x[:, row, column] for row in rows for column in columns], axis=3)
