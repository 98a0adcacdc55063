"""The train step fed by the input pipeline, and which of them waits for the other."""

import time
from collections import deque
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from mtlflax.benchmark.input import batches_of
from mtlflax.experiment import Experiment
from mtlflax.training import parallel


class Together(NamedTuple):
    """What was measured."""

    images_per_second: float
    waiting_for_input: float  # the share of the time that was spent waiting for a batch


def measure(experiment: Experiment, mesh: Mesh, *, steps: int = 10) -> Together:
    """Train for some steps as a run does, two steps ahead of the device, after some to warm up."""
    step: Any = experiment.make_train_step(mesh)
    state = jax.jit(experiment.init, out_shardings=parallel.replicated(mesh))(None)
    under_way: deque[Any] = deque()
    waited = 0.0
    with batches_of(experiment) as batches:
        for number in range(3 + steps):
            if number == 3:
                jax.block_until_ready(state)
                began, waited = time.perf_counter(), 0.0
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            state, metrics = step(state, parallel.shard_batch(batch, mesh))
            under_way.append(metrics)
            if len(under_way) > 2:
                jax.block_until_ready(under_way.popleft())
        jax.block_until_ready(state)
        seconds = time.perf_counter() - began
    return Together(experiment.config.batch_size * steps / seconds, waited / seconds)


def text(found: Together) -> str:
    """Return the figures for people."""
    return (
        f"{found.images_per_second:.4g} images/s, {100 * found.waiting_for_input:.0f} % of the time waiting for input"
    )
