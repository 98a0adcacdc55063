"""Exact evaluation on a whole set: every frame once, sums on the device, division once and on the host."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mtlflax.data import loader
from mtlflax.experiment import Experiment
from mtlflax.run import signals
from mtlflax.run.frames import Frames
from mtlflax.tasks import Task
from mtlflax.training import parallel
from mtlflax.training.step import TrainState, make_evaluation_step


class Sample(NamedTuple):
    """A few frames and what the network made of them, for pictures: NumPy arrays with a leading axis n."""

    batch: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]  # task → in the form of the truth


class Evaluation(NamedTuple):
    """What an evaluation has found; the first two are the same on every process."""

    results: dict[str, float]  # `split/task/metric` → value
    frames: Frames  # what the results are read from, frame by frame
    sample: Sample  # this process's first frames: `config.pictures` of them, at most a batch


Evaluator = Callable[[TrainState, str], Evaluation]  # on a split: a key of `experiment.evaluated`


def make_evaluator(experiment: Experiment, mesh: Mesh, batch_size: int) -> Evaluator:
    """Return a function that evaluates a state on all frames of a split; it compiles at its first call."""
    config, tasks = experiment.config, experiment.tasks
    out_specs = (parallel.REPLICATED, parallel.SHARDED)
    step = make_evaluation_step(experiment.model, tasks)
    step = parallel.map_step(step, mesh, via=config.parallel, out_specs=out_specs)
    # Padding is masked, so the batch may be larger than asked for in order to divide among the devices.
    batch_size = math.ceil(batch_size / mesh.size) * mesh.size

    def evaluate(state: TrainState, split: str) -> Evaluation:
        source = experiment.evaluated[split]
        counted: list[tuple[np.ndarray, dict[str, Any]]] = []
        sample = None
        waiting = None
        with loader.evaluation_batches(
            source,
            experiment.batch_fields,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=config.data.num_threads,
            prefetch=config.data.prefetch,
        ) as batches:
            for number, batch in enumerate(batches):
                signals.raise_pending()
                arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray)}
                arrays["frame"] = _frame_numbers(number, len(arrays["mask"]))
                sums, predictions = step(state, parallel.shard_batch(arrays, mesh))
                if sample is None:
                    count = min(config.pictures, int(arrays["mask"].sum()))
                    sample = Sample(
                        {k: v[:count] for k, v in arrays.items()},
                        {k: parallel.local_rows(v)[:count] for k, v in predictions.items()},
                    )
                if waiting is not None:  # one batch's sums are read while the next is computed
                    counted.append(jax.device_get(waiting))
                waiting = sums
        assert sample is not None  # the loader refuses an empty source
        counted.append(jax.device_get(waiting))
        frames = _collect(experiment.tasks, tuple(source.names), counted)
        totals = frames.total()
        results: dict[str, float] = {}
        for task in tasks:
            figures = task.metrics(totals[task.name])
            results |= {f"{split}/{task.name}/{name}": value for name, value in figures.items()}
        return Evaluation(results, frames, sample)

    return evaluate


def _frame_numbers(batch: int, rows: int) -> np.ndarray:
    """The numbers of the frames in this process's rows of a batch: it reads every n-th, of n processes."""
    return ((batch * rows + np.arange(rows)) * jax.process_count() + jax.process_index()).astype(np.int32)


def _collect(tasks: Sequence[Task], names: tuple[str, ...], counted: Sequence[tuple[np.ndarray, Any]]) -> Frames:
    """Put the frames of all batches into the order of the source; what comes behind is padding."""
    order = np.argsort(np.concatenate([frames for frames, _ in counted]))[: len(names)]

    def collect(*batches: np.ndarray) -> np.ndarray:
        whole = np.concatenate(batches)[order]
        # float32 sums leave float64 some 29 bits to spare: the order in which they are added changes nothing.
        return whole.astype(np.int64 if np.issubdtype(whole.dtype, np.integer) else np.float64)

    sums = jax.tree.map(collect, *[sums for _, sums in counted])
    return Frames(names, {task.name: dict(task.condense(sums[task.name])) for task in tasks})
