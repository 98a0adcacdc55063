"""3×3 convolutions with fewer multiplications, for training on a CPU (Winograd; Lavin and Gray 2016, arXiv:1509.09308).

An output of m×m pixels needs (m + 2)² multiplications for each pair of channels instead of 9 m²: 4 to the pixel for
m = 2, 2.25 for m = 4. The maps are cut into tiles of (m + 2)×(m + 2) pixels that overlap by two; tiles and kernels are
transformed (B and G), multiplied as matrices [tiles, C] × [C, K] for each of the (m + 2)² positions, and transformed
back (A). Results are those of the convolution up to rounding, which is a few float32 digits worse for m = 4.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# The paper's matrices, transposed as there: for m → those of the input (Bᵀ), the kernel (G) and the output (Aᵀ).
_TRANSFORMS: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {
    2: (
        np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
        np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
        np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    ),
    4: (
        np.array(
            [
                [4, 0, -5, 0, 1, 0],
                [0, -4, -4, 1, 1, 0],
                [0, 4, -4, -1, 1, 0],
                [0, -2, -1, 2, 1, 0],
                [0, 2, -1, -2, 1, 0],
                [0, 4, 0, -5, 0, 1],
            ]
        ),
        np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
        np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
    ),
}
# Below either, XLA's own convolutions are faster: tests/benchmarks/README.md, from tests/benchmarks/convolutions.py.
_MIN_CHANNELS = 100
_MIN_TILES = 64


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve with a 3×3 kernel, padded by one pixel: [B, H, W, C] and [3, 3, C, K] -> [B, H, W, K].

    While gradients are taken on a CPU, convolutions of wide float32 maps are computed by Winograd's algorithm, in both
    directions. Everywhere else this is XLA's convolution.
    """
    return plain(x, kernel)


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same by XLA's convolution."""
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    if not _pays(x, kernel):
        return plain(x, kernel), (x, kernel)
    return lax.platform_dependent(x, kernel, cpu=functools.partial(tiled, m=2), default=plain), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    given = (*kept, gradient)
    return lax.platform_dependent(*given, cpu=_by_tiles, default=_derived) if _pays(*kept) else _derived(*given)


def _derived(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    of_x, of_kernel = jax.vjp(plain, x, kernel)[1](gradient)
    return of_x, of_kernel


def _by_tiles(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return tiled(gradient, kernel[::-1, ::-1].swapaxes(2, 3), m=2), tiled_kernel_gradient(x, gradient, m=4)


convolve.defvjp(_forward, _backward)


def _pays(x: jax.Array, kernel: jax.Array) -> bool:
    tiles = x.shape[0] * -(-x.shape[1] // 4) * -(-x.shape[2] // 4)
    return x.dtype == jnp.float32 and min(kernel.shape[2:]) >= _MIN_CHANNELS and tiles >= _MIN_TILES


def tiled(x: jax.Array, kernel: jax.Array, m: int) -> jax.Array:
    """Convolve as `convolve` does, by tiles with an output of m×m pixels, 2 or 4."""
    _, of_kernel, of_output = _TRANSFORMS[m]
    b, h, w, _ = x.shape
    tiles = _input_tiles(x, m)
    rows = jnp.stack(_combine(of_kernel, kernel))  # [m + 2, 3, C, K]
    kernels = _combine(of_kernel, rows.swapaxes(0, 1))
    products = [_multiply(one, other) for one, other in zip(tiles, kernels, strict=True)]
    columns = jnp.stack(_combine(of_output, products), 2)  # [m + 2, tiles, m, K]
    th, tw = -(-h // m), -(-w // m)
    y = jnp.stack(_combine(of_output, columns.reshape(m + 2, b, th, tw * m, -1)), 2)
    return y.reshape(b, th * m, tw * m, -1)[:, :h, :w]


def tiled_kernel_gradient(x: jax.Array, gradient: jax.Array, m: int) -> jax.Array:
    """The gradient of the kernel, [3, 3, C, K], given that of the output, [B, H, W, K]."""
    _, of_kernel, _ = _TRANSFORMS[m]
    pairs = zip(_input_tiles(x, m), _output_tiles(gradient, m), strict=True)
    products = [lax.dot_general(one, other, (((1,), (1,)), ((0,), (0,)))) for one, other in pairs]
    columns = jnp.stack(_combine(of_kernel.T, products), 1)  # [m + 2, 3, C, K]
    return jnp.stack(_combine(of_kernel.T, columns))


def _input_tiles(x: jax.Array, m: int) -> list[jax.Array]:
    """The transformed tiles, for each column of a tile [m + 2 (its rows), tiles, C]."""
    transform, _, _ = _TRANSFORMS[m]
    b, h, w, c = x.shape
    th, tw = -(-h // m), -(-w // m)
    x = jnp.pad(x, ((0, 0), (1, 1 + th * m - h), (1, 1 + tw * m - w), (0, 0)))
    rows = jnp.stack(_combine(transform, [x[:, i : i + th * m - m + 1 : m] for i in range(m + 2)]))
    columns = [rows[:, :, :, j : j + tw * m - m + 1 : m] for j in range(m + 2)]
    return [tile.reshape(m + 2, b * th * tw, c) for tile in _combine(transform, columns)]


def _output_tiles(gradient: jax.Array, m: int) -> list[jax.Array]:
    """The gradients of the products, in the same form; the transpose of the output's transformation."""
    _, _, transform = _TRANSFORMS[m]
    b, h, w, k = gradient.shape
    th, tw = -(-h // m), -(-w // m)
    gradient = jnp.pad(gradient, ((0, 0), (0, th * m - h), (0, tw * m - w), (0, 0)))
    rows = jnp.stack(_combine(transform.T, [gradient[:, i::m] for i in range(m)]))
    columns = [rows[:, :, :, j::m] for j in range(m)]
    return [tile.reshape(m + 2, b * th * tw, k) for tile in _combine(transform.T, columns)]


def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))))


def _combine(matrix: np.ndarray, terms: Sequence[jax.Array] | jax.Array) -> list[jax.Array]:
    """For each row of a small matrix, the sum of the terms with its numbers as factors."""
    return [
        functools.reduce(operator.add, [float(n) * term for n, term in zip(row, terms, strict=True) if n])
        for row in matrix
    ]
