"""Exact evaluation on a whole set: every frame once, sums on the device, division once and on the host."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mtlflax import metrics
from mtlflax.data import loader
from mtlflax.experiment import Experiment
from mtlflax.run import signals
from mtlflax.training import parallel
from mtlflax.training.step import TrainState, make_evaluation_step


class Sample(NamedTuple):
    """A few frames and what the network made of them, for pictures: NumPy arrays with a leading axis n."""

    batch: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]  # task → in the form of the truth


def make_evaluator(
    experiment: Experiment, mesh: Mesh, batch_size: int
) -> Callable[[TrainState], tuple[dict[str, float], Sample]]:
    """Return a function that evaluates a state on all validation frames; it compiles at its first call.

    Returns:
        `evaluate(state)` → (`val/task/metric` → value, the same on every process; this process's first frames,
        `config.pictures` of them, at most a batch).
    """
    config, tasks = experiment.config, experiment.tasks
    out_specs = (parallel.REPLICATED, parallel.SHARDED)
    step = make_evaluation_step(experiment.model, tasks)
    step = parallel.map_step(step, mesh, via=config.parallel, out_specs=out_specs)

    def evaluate(state: TrainState) -> tuple[dict[str, float], Sample]:
        totals = metrics.Totals()
        sample = None
        waiting = None
        with loader.evaluation_batches(
            experiment.validation,
            experiment.batch_fields,
            # Padding is masked, so the batch may be larger than asked for in order to divide among the devices.
            batch_size=math.ceil(batch_size / mesh.size) * mesh.size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=config.data.num_threads,
            prefetch=config.data.prefetch,
        ) as batches:
            for batch in batches:
                signals.raise_pending()
                arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray)}
                sums, predictions = step(state, parallel.shard_batch(arrays, mesh))
                if sample is None:
                    count = min(config.pictures, int(arrays["mask"].sum()))
                    sample = Sample(
                        {k: v[:count] for k, v in arrays.items()},
                        {k: parallel.local_rows(v)[:count] for k, v in predictions.items()},
                    )
                if waiting is not None:  # one batch's sums are read while the next is computed
                    totals.add(jax.device_get(waiting))
                waiting = sums
        assert sample is not None  # the loader refuses an empty source
        totals.add(jax.device_get(waiting))
        results: dict[str, float] = {}
        for task in tasks:
            figures = task.metrics(totals.sums[task.name])
            results |= {f"val/{task.name}/{name}": value for name, value in figures.items()}
        return results, sample

    return evaluate
