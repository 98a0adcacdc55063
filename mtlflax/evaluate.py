"""Exact evaluation on a whole set: every frame once, sums on the device, division once and on the host."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mtlflax.data import loader, samples
from mtlflax.data.full_truth import truth_size, with_full_truth
from mtlflax.data.source import Source
from mtlflax.experiment import Experiment
from mtlflax.run import official
from mtlflax.run.frames import Frames
from mtlflax.tasks import Task
from mtlflax.training import parallel
from mtlflax.training.step import TrainState, make_evaluation_step

Size = tuple[int, int]  # (H, W)


class Sample(NamedTuple):
    """A few frames and what the network made of them, for pictures: NumPy arrays with a leading axis n."""

    batch: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]  # task → in the form of the truth


class Evaluation(NamedTuple):
    """What an evaluation has found; all but the sample are the same on every process."""

    results: dict[str, float]  # `split/task/metric` → value
    frames: Frames  # what the results are read from, frame by frame
    sample: Sample  # this process's first frames: `config.pictures` of them, at most a batch
    size: Size  # at which it was scored


Evaluator = Callable[[TrainState, str], Evaluation]  # on a split: a key of `experiment.evaluated`


class _Plan(NamedTuple):
    """How a split is evaluated."""

    source: Source
    truth_size: Size | None  # at which it is scored; None: as the images
    export_size: Size | None  # at which predictions are written; None: none are


def make_evaluator(
    experiment: Experiment,
    mesh: Mesh,
    batch_size: int,
    export: Path | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> Evaluator:
    """Return a function that evaluates a state on all frames of a split; it compiles at its first call.

    `before_batch` is called before each batch, and may raise.

    `export` is a folder for the predictions for `val` in the official format (`run.official`), at the size of the
    labels; each process writes those for its own frames. UserError if the folder holds others.
    """
    config, tasks = experiment.config, experiment.tasks
    # Padding is masked, so the batch may be larger than asked for in order to divide among the devices.
    batch_size = math.ceil(batch_size / mesh.size) * mesh.size

    @functools.cache
    def plan(split: str) -> _Plan:
        source, exporting = experiment.evaluated[split], export is not None and split == "val"
        at_full = config.evaluate.size == "full"
        full = with_full_truth(source) if at_full or exporting else None
        read = samples.Readable(full, config.data.on_error) if full else None
        size = truth_size(read, experiment.evaluation_fields) if read else None
        export_size = (size or experiment.size) if exporting else None
        return _Plan(full, size, export_size) if at_full and full else _Plan(source, None, export_size)

    @functools.cache
    def step_at(size: Size | None, export_size: Size | None) -> Callable[[Any, Any], Any]:
        exported = (official.task(tasks, experiment.fields), export_size) if export_size else None
        step = make_evaluation_step(experiment.model, tasks, size=size, export=exported)
        out_specs = (parallel.REPLICATED, parallel.SHARDED, parallel.SHARDED)
        return parallel.map_step(step, mesh, via=config.parallel, out_specs=out_specs)

    def evaluate(state: TrainState, split: str) -> Evaluation:
        source, size, export_size = plan(split)
        step = step_at(size, export_size)
        if export and export_size:
            official.check_folder(export, source.names)
        counted: list[tuple[np.ndarray, dict[str, Any]]] = []
        sample = None
        waiting: tuple[Any, jax.Array | None, dict[str, Any]] | None = None

        def finish(sums: Any, maps: jax.Array | None, batch: dict[str, Any]) -> None:
            counted.append(jax.device_get(sums))
            if export and maps is not None:
                for name, known, train_ids in zip(batch["name"], batch["mask"], parallel.local_rows(maps), strict=True):
                    if known:
                        official.write(export, name, train_ids)

        with loader.evaluation_batches(
            source,
            experiment.evaluation_fields,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=config.data.num_threads,
            prefetch=config.data.prefetch,
            truth_size=size,
            on_error=config.data.on_error,
        ) as batches:
            for number, batch in enumerate(batches):
                before_batch()
                arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray)}
                arrays["frame"] = _frame_numbers(number, len(arrays["mask"]))
                sums, predictions, maps = step(state, parallel.shard_batch(arrays, mesh))
                if sample is None:
                    rows = np.flatnonzero(arrays["mask"])[: config.pictures]
                    sample = Sample(
                        {k: v[rows] for k, v in arrays.items()},
                        {k: parallel.local_rows(v)[rows] for k, v in predictions.items()},
                    )
                if waiting is not None:  # one batch's sums are read while the next is computed
                    finish(*waiting)
                waiting = sums, maps, batch
        assert sample is not None  # the loader refuses an empty source
        assert waiting is not None
        finish(*waiting)
        if size:
            sample = _at_image_size(sample, experiment, split)
        frames = _collect(experiment.tasks, tuple(source.names), counted)
        totals = frames.total()
        results: dict[str, float] = {}
        for task in tasks:
            figures = task.metrics(totals[task.name])
            results |= {f"{split}/{task.name}/{name}": value for name, value in figures.items()}
        return Evaluation(results, frames, sample, size or experiment.size)

    return evaluate


def _at_image_size(sample: Sample, experiment: Experiment, split: str) -> Sample:
    """The same frames with their truth at the size of the images, for pictures of one size."""
    source, fields = experiment.evaluated[split], experiment.evaluation_fields
    frames = [samples.Checked(source, fields)[int(number)] for number in sample.batch["frame"]]
    return sample._replace(batch=sample.batch | samples.stack(fields, frames)) if frames else sample


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
