"""What XLA is told on a CPU: its options, and what it must not compute together."""

import functools
from typing import Any

import jax
from jax import lax


@functools.cache
def options(platform: str = "") -> dict[str, str]:
    """Return the options for XLA with which networks are compiled for a platform (default: the one that JAX uses).

    There are none but for CPUs, and none there if this version of XLA does not know them. They restrict XLA's library
    YNN to matrix products and sums, since it would run convolutions of 64 channels or fewer on one thread
    (tests/benchmarks/README.md). And they keep the barriers, those of `jax.checkpoint` too: jaxlib 0.10 takes them out
    otherwise.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    known = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }
    try:
        jax.jit(lambda: 0, compiler_options=known).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return known


def barrier(*arrays: Any) -> tuple[Any, ...]:
    """Return the arrays, or trees of arrays; on a CPU, all are computed before any is read.

    XLA computes nothing in front of it together with anything behind it, in programs compiled with `options`. On other
    platforms it does nothing.
    """
    behind = lax.platform_dependent(*arrays, cpu=lambda *x: lax.optimization_barrier(x), default=lambda *x: x)
    return tuple(behind)
