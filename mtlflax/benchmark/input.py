"""How fast batches arrive, augmented and stacked, with nothing else to do."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mtlflax.data import loader
from mtlflax.experiment import Experiment


class InputSpeed(NamedTuple):
    """What was measured."""

    images_per_second: float
    median: float  # seconds between two batches
    p90: float
    batch_megabytes: float
    memory_megabytes: float  # of this process and its workers, resident, at the end
    growth_megabytes: float  # of it since the measurement began


def measure(experiment: Experiment, *, seconds: float = 10.0) -> InputSpeed:
    """Take batches as training does, for a while, after as many as may have been made ready beforehand."""
    config = experiment.config
    with batches_of(experiment) as batches:
        ready = 2 * max(config.data.prefetch, config.data.num_threads, config.data.num_workers) + 1
        for _ in range(ready):
            batch = next(batches)
        before, times = _resident(), [time.perf_counter()]
        while len(times) < 4 or times[-1] - times[0] < seconds:
            batch = next(batches)
            times.append(time.perf_counter())
        after = _resident()
    between = np.diff(times)
    size = sum(np.asarray(value).nbytes for value in batch.values())
    return InputSpeed(
        images_per_second=config.batch_size * len(between) / (times[-1] - times[0]),
        median=float(np.median(between)),
        p90=float(np.quantile(between, 0.9)),
        batch_megabytes=size / 1e6,
        memory_megabytes=after / 1e6,
        growth_megabytes=(after - before) / 1e6,
    )


def batches_of(experiment: Experiment) -> AbstractContextManager[Iterator[dict[str, np.ndarray]]]:
    """Open the training batches of an experiment, for one process."""
    config = experiment.config
    if prepare := getattr(experiment.training, "prepare", None):
        prepare()
    return loader.train_batches(
        experiment.training,
        experiment.train_fields,
        batch_size=config.batch_size,
        seed=config.seed,
        augment=experiment.augment,
        num_threads=config.data.num_threads,
        prefetch=config.data.prefetch,
        num_workers=config.data.num_workers,
        on_error=config.data.on_error,
    )


def _resident() -> float:
    """The memory of this process and of those that it has started, in bytes; NaN where the system does not tell."""
    total = 0
    try:
        own = Path("/proc/self")
        for process in [own, *(Path("/proc") / pid for pid in _children(own))]:
            total += int((process / "statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return float("nan")
    return float(total)


def _children(process: Path) -> list[str]:
    return [pid for task in (process / "task").iterdir() for pid in (task / "children").read_text().split()]
