"""Time 3×3 convolutions in both directions: XLA's own, and by Winograd's algorithm; a line for each shape, as Markdown.

    python tests/benchmarks/convolutions.py [--batch=8] [--size=128x256]

The shapes are those of the paper's multi-task ResNet-50; XLA is told what the train step tells it. Times are medians.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax

from mtlflax import compiler
from mtlflax.models import winograd

# Stride, channels in and out.
SHAPES = (
    (16, 1280, 256),
    (8, 640, 128),
    (4, 320, 64),
    (2, 96, 32),
    (1, 16, 16),
    (4, 64, 64),
    (8, 128, 128),
    (16, 256, 256),
    (32, 512, 512),
)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="128x256")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    height, width = (int(n) for n in options.size.split("x"))
    print("| map | channels | forward, ms: XLA | by tiles | kernel gradient, ms: XLA | by tiles |")
    print("|---|---|---|---|---|---|")
    for stride, channels, features in SHAPES:
        h, w = height // stride, width // stride
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (options.batch, h, w, channels))
        kernel = jax.random.normal(keys[1], (3, 3, channels, features))
        gradient = jax.random.normal(keys[2], (options.batch, h, w, features))
        forward = [seconds(f, options.repeats, x, kernel) for f in (winograd.plain, winograd.tiled)]
        gradients = plain_gradient, winograd.tiled_kernel_gradient
        backward = [seconds(f, options.repeats, x, gradient) for f in gradients]
        cells = " | ".join(f"{1e3 * each:.1f}" for each in (*forward, *backward))
        print(f"| {h}×{w} | {channels} → {features} | {cells} |", flush=True)


def plain_gradient(x: jax.Array, gradient: jax.Array) -> Any:
    """The kernel's gradient that JAX derives."""
    zeros = jax.numpy.zeros((3, 3, x.shape[3], gradient.shape[3]))
    return jax.vjp(lambda kernel: winograd.plain(x, kernel), zeros)[1](gradient)


def seconds(function: Callable[..., Any], repeats: int, *given: jax.Array) -> float:
    """The median time of a call."""
    compiled = jax.jit(function, compiler_options=compiler.options())
    jax.block_until_ready(compiled(*given))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*given))
        times.append(time.perf_counter() - began)
    return median(times)


if __name__ == "__main__":
    main()
