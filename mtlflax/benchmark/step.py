"""The time of a train step, on a batch that is already on the devices."""

import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from mtlflax.data.source import Depth, Field, Labels, Number
from mtlflax.data.transforms import Drawn
from mtlflax.experiment import Experiment
from mtlflax.training import parallel


class StepTime(NamedTuple):
    """What was measured; bytes and operations are one device's."""

    # Until the first step is done: making the state, tracing, compiling. NaN if the user has named a folder of compiled
    # programs (JAX_COMPILATION_CACHE_DIR), which may have these.
    compile_seconds: float
    cached_seconds: float  # the same, where JAX's persistent cache has the programs, as when a run is started again
    median: float  # seconds per step
    p90: float
    images_per_second: float
    flops: float  # of the compiled program; NaN if it is not known (under pmap, with parts)
    temporary_bytes: float  # that it needs besides the state and the batch
    peak_bytes: float  # of the device's memory; on a CPU, of the process's
    matmul_flops_per_second: float  # the ceiling: what large matrix products reach, in the network's dtype


def measure(experiment: Experiment, mesh: Mesh, *, warmup: int = 2, steps: int = 10) -> StepTime:
    """Time the train step of an experiment: each step from its call until its results are there.

    It is the program that a run compiles. The batch is made up, with labels everywhere, so that the weighting runs.
    """
    with _programs_kept() as compiles:
        compile_seconds = _start(experiment, mesh)[2]  # the state that it made is gone before the next is made
        jax.clear_caches()
        run, compiled, cached_seconds = _start(experiment, mesh)
    times = []
    for _ in range(warmup + steps):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    taken = times[warmup:]
    median = float(np.median(taken))
    counted = compiled and experiment.config.accumulate == 1  # a loop over parts is counted once
    flops = float(compiled.cost_analysis()["flops"]) if counted else np.nan
    memory = compiled.memory_analysis().temp_size_in_bytes if compiled else np.nan
    batch_size, dtype = experiment.config.batch_size, experiment.config.model.get("dtype", "float32")
    return StepTime(
        compile_seconds if compiles else np.nan,
        cached_seconds,
        median,
        float(np.quantile(taken, 0.9)),
        batch_size / median,
        flops,
        float(memory),
        _peak_bytes(),
        matmul_ceiling(dtype),
    )


def _start(experiment: Experiment, mesh: Mesh) -> tuple[Callable[[], None], Any, float]:
    """Take the first step; return what `prepare` does, and the seconds."""
    began = time.perf_counter()
    run, compiled = prepare(experiment, mesh)
    run()
    return run, compiled, time.perf_counter() - began


def prepare(experiment: Experiment, mesh: Mesh) -> tuple[Callable[[], None], Any]:
    """Compile a train step; return a function that takes one, and waits for it, and the program (None under pmap)."""
    config = experiment.config
    step: Any = experiment.make_train_step(mesh)
    state = jax.jit(experiment.init, out_shardings=parallel.replicated(mesh))(None)
    local = config.batch_size // jax.process_count()
    batch = parallel.shard_batch(made_up(experiment.train_fields, experiment.size, local), mesh)
    compiled = step.lower(state, batch).compile() if hasattr(step, "lower") else None
    program = compiled or step

    def run() -> None:
        nonlocal state
        state, metrics = program(state, batch)
        jax.block_until_ready((state, metrics))

    return run, compiled


@contextmanager
def _programs_kept() -> Iterator[bool]:
    """Have JAX keep compiled programs for as long as the block takes: in a new folder, if it does not keep them yet.

    Yields whether the folder is new, so that nothing was there.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        yield False
        return
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()
        try:
            yield True
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
            compilation_cache.reset_cache()


def matmul_ceiling(dtype: str) -> float:
    """Return the operations per second of a large square matrix product on one device: the best of some."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    square = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda a: a @ a)
    best = np.inf
    for _ in range(6):
        began = time.perf_counter()
        jax.block_until_ready(multiply(square))
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _peak_bytes() -> float:
    """The most memory that was in use so far, of the first device or, on a CPU, of the process."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return float(statistics["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def text(found: StepTime) -> str:
    """Return the figures for people."""
    first = "" if np.isnan(found.compile_seconds) else f"{found.compile_seconds:.1f} s, "
    parts = [
        f"{found.median:.4g} s per step (p90 {found.p90:.4g}), {found.images_per_second:.4g} images/s",
        f"first step {first}{found.cached_seconds:.1f} s with the programs of an earlier run",
    ]
    if not np.isnan(found.flops):
        share = found.flops / found.median / found.matmul_flops_per_second
        ceiling = f"{found.matmul_flops_per_second / 1e9:.4g} GFLOP/s of large matrix products"
        parts.append(f"{found.flops / 1e9:.4g} GFLOP, {100 * share:.0f} % of the {ceiling}")
        parts.append(f"{found.temporary_bytes / 2**20:.0f} MiB of temporary memory")
    return "; ".join([*parts, f"{found.peak_bytes / 2**20:.0f} MiB at most in all"])


def made_up(fields: Mapping[str, Field], size: tuple[int, int], count: int) -> dict[str, np.ndarray]:
    """Return a batch of `count` frames of size (H, W) in which everything is known."""
    rng = np.random.default_rng(0)
    return {name: _values(field, (count, *field.shape(size)), rng) for name, field in fields.items()}


def _values(field: Field, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    values: Any
    if isinstance(field, Labels):
        values = rng.integers(0, max(1, len(field.classes)), shape)
    elif isinstance(field, Depth):
        values = np.clip(rng.uniform(0.5, 2, shape) * field.unit.typical, max(field.least, 0), field.most)
        values = np.maximum(values, 1) if np.issubdtype(np.dtype(field.dtype), np.integer) else values
    elif isinstance(field, Drawn):
        values = np.broadcast_to([1.0, 0, 0, 0, 1, 1, 1, 0], shape)  # nothing is changed
    elif isinstance(field, Number):
        values = np.full(shape, 100.0)
    elif np.dtype(field.dtype) == np.uint8:
        values = rng.integers(0, 256, shape)
    else:
        values = rng.uniform(0.1, 1, shape)
    return np.asarray(values).astype(field.dtype)
