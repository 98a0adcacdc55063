"""How fast a network predicts: one picture at a time, and in batches."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from mtlflax.experiment import Experiment
from mtlflax.models import cost
from mtlflax.run.predictor import Run, make_predict


class PredictionTime(NamedTuple):
    """What was measured, with pictures that lie on the device."""

    parameters: int
    multiply_adds: int  # of a picture
    milliseconds: float  # of a picture alone, the median
    images_per_second: float  # in batches


def measure(experiment: Experiment, *, repeats: int = 10) -> PredictionTime:
    """Time predictions at the size of the config, at batch 1 and at its batch size."""
    size, batch_size = experiment.size, experiment.config.batch_size
    state = jax.jit(experiment.init)(None)
    predict = make_predict(Run(experiment, 0, {"params": state.params, "batch_stats": state.batch_stats}))
    medians = []
    for count in (1, batch_size):
        images = jax.device_put(np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8))
        times = []
        for _ in range(2 + repeats):
            began = time.perf_counter()
            jax.block_until_ready(predict(images))
            times.append(time.perf_counter() - began)
        medians.append(float(np.median(times[2:])))
    parameters, operations = cost.count(experiment.model, size)
    return PredictionTime(parameters, operations, 1000 * medians[0], batch_size / medians[1])


def text(found: PredictionTime) -> str:
    """Return the figures for people."""
    return (
        f"{found.milliseconds:.4g} ms for one picture, {found.images_per_second:.4g} images/s in batches, "
        "on one device; "
        f"{found.parameters / 1e6:.4g} M parameters, {found.multiply_adds / 1e9:.4g} G multiply-adds"
    )


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of several networks: name → the fields of its `PredictionTime`."""
    lines = [
        "| | 10⁶ parameters | 10⁹ multiply-adds | ms for one picture | images/s in batches |",
        "|---|---|---|---|---|",
    ]
    for name, of in found.items():
        sizes = f"{of['parameters'] / 1e6:.2f} | {of['multiply_adds'] / 1e9:.2f}"
        lines.append(f"| {name} | {sizes} | {of['milliseconds']:.3g} | {of['images_per_second']:.3g} |")
    return "\n".join(lines)
