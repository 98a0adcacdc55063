"""3×3 convolutions with fewer multiplications, for training on a CPU (Winograd; Lavin and Gray 2016, arXiv:1509.09308).

4×4 pixels of output take 36 multiplications for each pair of channels instead of 144: F(4×4, 3×3) of the paper. The
maps are cut into tiles of 6×6 pixels that overlap by two; tiles and kernels are transformed (B and G), multiplied as
matrices [tiles, C] × [C, K] for each of the 36 positions, and transformed back (A).

Results are those of the convolution but for rounding: with 32 to 256 channels, 1e-6 to 3.3e-6 of their length from
those in float64, where XLA's are 2e-7 to 1.6e-6 (tests/models/test_by_hand.py asserts less than 5e-6). The error of a
pixel is relative to the largest pixels of its tile, and a pixel that is not finite makes its tiles so.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_barrier = lax.optimization_barrier  # on all platforms: tiles are computed on a CPU alone

# The paper's matrices, transposed as there: those of the input (Bᵀ), the kernel (G) and the output (Aᵀ).
_OF_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_OF_KERNEL = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_OF_OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
_STEP, _TILE = _OF_OUTPUT.shape  # a side of a tile's output, and of the tile

# With fewer of either, XLA's own convolution is about as fast or faster, both directions together, and compiles faster:
# tests/benchmarks/README.md.
_MIN_CHANNELS = 32
_MIN_TILES = 64


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve with a 3×3 kernel, padded by one pixel: [B, H, W, C] and [3, 3, C, K] -> [B, H, W, K].

    While gradients are taken on a CPU, float32 convolutions with at least 32 channels in and out, and at least 64 tiles
    in the batch, are computed by Winograd's algorithm, in both directions. All others are XLA's convolution.
    """
    return plain(x, kernel)


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same by XLA's convolution."""
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    if not _pays(x, kernel):
        return plain(x, kernel), (x, kernel)
    return lax.platform_dependent(x, kernel, cpu=tiled, default=plain), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    given = (*kept, gradient)
    return lax.platform_dependent(*given, cpu=_by_tiles, default=_derived) if _pays(*kept) else _derived(*given)


def _derived(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    of_x, of_kernel = jax.vjp(plain, x, kernel)[1](gradient)
    return of_x, of_kernel


def _by_tiles(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return tiled(gradient, kernel[::-1, ::-1].swapaxes(2, 3)), tiled_kernel_gradient(x, gradient)


convolve.defvjp(_forward, _backward)


def _pays(x: jax.Array, kernel: jax.Array) -> bool:
    tiles = x.shape[0] * -(-x.shape[1] // _STEP) * -(-x.shape[2] // _STEP)
    return x.dtype == kernel.dtype == jnp.float32 and min(kernel.shape[2:]) >= _MIN_CHANNELS and tiles >= _MIN_TILES


def tiled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve as `convolve` does, by tiles."""
    b, h, w, _ = x.shape
    th, tw = -(-h // _STEP), -(-w // _STEP)
    products = []  # for each column of a tile, [4 (rows of its output), B, tiles along H, tiles along W, K]
    for tiles, factors in zip(_transformed(x, _OF_INPUT, _overlapping), _transformed_kernel(kernel), strict=True):
        product = _barrier(lax.dot_general(tiles, factors, (((2,), (1,)), ((0,), (0,)))))
        product = _barrier(jnp.stack(_combine(_OF_OUTPUT, product)))
        products.append(product.reshape(_STEP, b, th, tw, -1))
    y = jnp.stack([jnp.moveaxis(column, 0, 2) for column in _combine(_OF_OUTPUT, products)], 4)
    return y.reshape(b, th * _STEP, tw * _STEP, -1)[:, :h, :w]


def tiled_kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient of the kernel, [3, 3, C, K], given that of the output, [B, H, W, K]."""
    products = [
        lax.dot_general(tiles, gradients, (((1,), (1,)), ((0,), (0,))))
        for tiles, gradients in zip(
            _transformed(x, _OF_INPUT, _overlapping), _transformed(gradient, _OF_OUTPUT.T, _apart), strict=True
        )
    ]
    columns = jnp.stack(_combine(_OF_KERNEL.T, products), 1)  # [6, 3, C, K]
    return jnp.stack(_combine(_OF_KERNEL.T, columns))


def _transformed_kernel(kernel: jax.Array) -> list[jax.Array]:
    """The transformed kernel, for each column of a tile [6 (its rows), C, K], as products with small matrices."""
    matrices = np.einsum("ia,jb->jiab", _OF_KERNEL, _OF_KERNEL).reshape(_TILE, _TILE, 9)
    taps = kernel.reshape(9, -1)
    return [(matrix.astype(np.float32) @ taps).reshape(_TILE, *kernel.shape[2:]) for matrix in matrices]


def _transformed(x: jax.Array, matrix: np.ndarray, cut: Callable[[jax.Array, int], list[jax.Array]]) -> list[jax.Array]:
    """The transformed tiles of [B, H, W, C], for each column of a tile [6 (its rows), tiles, C].

    Without barriers, XLA's library YNN would compute them together with the products, and make an array of the map's
    size for each constant factor. One column is finished before the next is begun, so that it is still in the
    processor's cache when it is read.
    """
    b, h, w, c = x.shape
    th, tw = -(-h // _STEP), -(-w // _STEP)
    x = jnp.pad(x, ((0, 0), (0, th * _STEP - h), (0, tw * _STEP - w), (0, 0)))
    transformed = []
    for column in _combine(matrix, cut(x, 2)):
        tiles = _barrier(jnp.stack(_combine(matrix, cut(_barrier(column), 1))))
        transformed.append(tiles.reshape(_TILE, b * th * tw, c))
    return transformed


def _apart(x: jax.Array, axis: int) -> list[jax.Array]:
    """Cut an axis into tiles of 4. Return 4 arrays: the first pixels of all tiles, the second ones, and so on."""
    return [lax.slice_in_dim(x, i, None, _STEP, axis) for i in range(_STEP)]


def _overlapping(x: jax.Array, axis: int) -> list[jax.Array]:
    """Cut an axis into tiles of 6 that overlap by two. Return 6 arrays, as `_apart`; pixels beyond the edges are 0.

    A tile's first pixel is the last one of the 4 of the tile before it, and its last pixel the first one of the 4 of
    the tile behind it. So the tiles of 4, shifted by one, give both, and no padded copy of the map is needed.
    """
    inner = _apart(x, axis)

    def shifted(part: jax.Array, by: int) -> jax.Array:
        edges = [(by, -by, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
        return lax.pad(part, jnp.zeros((), x.dtype), edges)

    return [shifted(inner[-1], 1), *inner, shifted(inner[0], -1)]


def _combine(matrix: np.ndarray, terms: Sequence[jax.Array] | jax.Array) -> list[jax.Array]:
    """For each row of a small matrix, the sum of the terms with its numbers as factors."""
    return [_sum([(float(n), term) for n, term in zip(row, terms, strict=True) if n]) for row in matrix]


def _sum(terms: list[tuple[float, jax.Array]]) -> jax.Array:
    """Σ n · term, by sums and differences: XLA would multiply by 1 and -1, with arrays of the size of the map."""
    scaled = [(n > 0, term if abs(n) == 1 else abs(n) * term) for n, term in terms]
    plus, minus = ([term for positive, term in scaled if positive is sign] for sign in (True, False))
    if not plus:
        return -functools.reduce(operator.add, minus)
    return functools.reduce(operator.sub, minus, functools.reduce(operator.add, plus))
