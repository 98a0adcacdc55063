"""The metrics of the steps under way: read from the device a window at a time, checked, and written."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from mtlflax.errors import UserError
from mtlflax.run.checkpoint import Checkpoints
from mtlflax.run.metric_writer import MetricWriter
from mtlflax.run.progress import Progress
from mtlflax.training import diagnostics

# Key of a step's metrics -> what its values are called in `metrics.jsonl`: train/loss/<task>, ...
_PER_TASK = {"losses": "loss", "weights": "weight", "task_gradient_norms": "task_gradient_norm"}


@dataclasses.dataclass
class TrainingLog:
    """Collects the metrics of the steps and writes their means to `writer` and, for people, to `progress`."""

    names: Sequence[str]  # of the tasks, in the order of the losses
    schedule: optax.Schedule  # updates so far → learning rate
    checkpoints: Checkpoints  # named in the error where training goes wrong
    writer: MetricWriter
    progress: Progress
    steps_per_epoch: int
    _incomplete: int = 0  # steps without labels for some task, since the last with labels for all
    _pending: list[tuple[int, dict[str, jax.Array]]] = dataclasses.field(default_factory=list)
    _diagnoses: list[tuple[int, dict[str, jax.Array]]] = dataclasses.field(default_factory=list)

    def add(self, step: int, metrics: dict[str, jax.Array], diagnosis: dict[str, jax.Array] | None = None) -> None:
        """Take the metrics of a step just dispatched, and wait for the step two before it.

        `diagnosis` is what `training.diagnostics` has measured before that step on its batch.
        """
        self._pending.append((step, metrics))
        if diagnosis is not None:
            self._diagnoses.append((step, diagnosis))
        if len(self._pending) > 2:  # bounds what is under way, without ever waiting for the latest
            finished, values = self._pending[-3]
            jax.block_until_ready(values)
            self.progress.update(finished)

    def read(self, through: int) -> None:
        """Write the means over the steps up to `through` that have not been read yet; waits for them.

        A task's loss is averaged over the steps in which it had a valid pixel. UserError if a loss or the gradient is
        not finite.
        """
        ready = [entry for entry in self._pending if entry[0] <= through]
        if not ready:
            return
        self._pending = self._pending[len(ready) :]
        window = jax.device_get([metrics for _, metrics in ready])
        for (step, _), metrics in zip(ready, window, strict=True):
            self._check_finite(step, metrics)
        stacked = {key: np.stack([metrics[key] for metrics in window]).astype(np.float64) for key in window[0]}
        present = stacked.pop("present").astype(bool)
        self._count_incomplete(np.all(present, axis=1))
        mean = {key: values.mean(axis=0) for key, values in stacked.items()}
        steps = present.sum(axis=0)
        mean["losses"] = np.divide(
            np.where(present, stacked["losses"], 0).sum(axis=0), steps, out=np.full(len(steps), np.nan), where=steps > 0
        )
        losses = ["–" if np.isnan(loss) else f"{loss:.4f}" for loss in mean["losses"]]
        parts = [f"{name} {loss}" for name, loss in zip(self.names, losses, strict=True)]
        if "weights" in mean:
            parts = [f"{part} ×{weight:.2f}" for part, weight in zip(parts, mean["weights"], strict=True)]
        self.progress.describe(" · ".join(parts))
        self.progress.update(through)
        while self._diagnoses and self._diagnoses[0][0] <= through:
            step, diagnosis = self._diagnoses.pop(0)
            if figures := diagnostics.figures(self.names, jax.device_get(diagnosis)):
                self.writer.scalars(step, figures)
        self.writer.scalars(through, self._scalars(through, mean))

    def _count_incomplete(self, complete: Any) -> None:
        """Say it if for an epoch no step had labels for every task, so that the weighting did not run."""
        for step_is_complete in complete:
            self._incomplete = 0 if step_is_complete else self._incomplete + 1
            if self._incomplete == self.steps_per_epoch:
                self.progress.write(
                    f"NOTE: none of the last {self._incomplete} steps had labels for all tasks, so the weighting did "
                    "not run: a larger --config.batch_size makes such steps rare"
                )

    def _scalars(self, step: int, mean: dict[str, np.ndarray]) -> dict[str, float]:
        scalars: dict[str, float] = {}
        for key, name in _PER_TASK.items():
            if key in mean:
                scalars |= {f"train/{name}/{task}": v for task, v in zip(self.names, mean[key].tolist(), strict=True)}
        if "cosines" in mean:
            for (i, a), (j, b) in itertools.combinations(enumerate(self.names), 2):
                scalars[f"train/cosine/{a}/{b}"] = float(mean["cosines"][i, j])
        scalars["train/gradient_norm"] = float(mean["gradient_norm"])
        scalars["train/learning_rate"] = float(self.schedule(step - 1))
        if speed := self.progress.images_per_second:
            scalars["train/images_per_second"] = speed
        return scalars

    def _check_finite(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        losses = zip(self.names, metrics["losses"], strict=True)
        bad = [f"the loss of {name} is {loss}" for name, loss in losses if not np.isfinite(loss)]
        if not bad and not np.isfinite(metrics["gradient_norm"]):
            bad = [f"the gradient's norm is {metrics['gradient_norm']}, with finite losses"]
        if not bad:
            return
        self.checkpoints.wait()
        last = self.checkpoints.latest_step
        where = f"The last good checkpoint: {self.checkpoints.directory / str(last)}"
        raise UserError(
            f"step {step}: {' and '.join(bad)}. Training stopped.\n"
            f"{'There is no checkpoint yet.' if last is None else where}\n"
            "The usual cure is a lower --config.optimizer.learning_rate, with a new --workdir."
        )
