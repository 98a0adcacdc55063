"""The time of a train step, on a batch that is already on the devices."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mtlflax.data.source import Depth, Field, Labels, Number
from mtlflax.data.transforms import Drawn
from mtlflax.experiment import Experiment
from mtlflax.training import parallel


class StepTime(NamedTuple):
    """What was measured."""

    compile_seconds: float  # of the first call: tracing and compiling, or reading from the persistent cache
    median: float  # seconds per step
    p90: float
    images_per_second: float


def measure(experiment: Experiment, mesh: Mesh, *, warmup: int = 2, steps: int = 10) -> StepTime:
    """Time the train step of an experiment: each step from its call until its results are there.

    It is the program that a run compiles. The batch is made up, with labels everywhere, so that the weighting runs.
    """
    config = experiment.config
    step = experiment.make_train_step(mesh)
    state = jax.jit(experiment.init, out_shardings=parallel.replicated(mesh))(None)
    local = config.batch_size // jax.process_count()
    batch = parallel.shard_batch(made_up(experiment.train_fields, experiment.size, local), mesh)
    times = []
    for _ in range(1 + warmup + steps):
        began = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - began)
    taken = times[1 + warmup :]
    median = float(np.median(taken))
    return StepTime(times[0], median, float(np.quantile(taken, 0.9)), config.batch_size / median)


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
