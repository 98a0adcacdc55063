"""What every task is, and a task made from a loss and metrics given pixel by pixel."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mtlflax import losses
from mtlflax.data.source import Field

Batch = Mapping[str, jax.Array]
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
    """One dense task.

    Attributes:
        name: as in `config.tasks` and in the names of metrics and files.
        fields: what it reads from a batch besides `image` and `mask`; the data set must declare them.
        channels: of the head's output.
        activation: head output [B, H, W, channels] → prediction, same shape.
        loss: (prediction, batch, axis_name) → float32 [], over the global batch: sums and counts are reduced over the
            axis before they are divided. 0 where nothing is valid.
        valid: batch → bool [B, ...], where there is a truth to learn from.
        sums: (prediction, batch) → arrays to be added up over the evaluation set, on the device. Rows of `batch` whose
            `mask` is 0 count for nothing.
        metrics: the added-up sums (NumPy, float64 or int64) → name → value, on the host.
        condense: sums of several frames, [N, ...] each (NumPy) → the same in fewer numbers, which `metrics` reads as
            well: what a run keeps of each frame.
        picture: prediction → a map in the form of the truth, on the device.
        truth: batch → what the prediction should be, [B, H, W, ...], on the host; for pictures.
        colors: such a map of one frame → uint8 [H, W, 3] RGB, on the host.
        files: (prediction [h, W, channels] of some rows of one image, its focal length × baseline) → the maps that
            prediction writes: name → array [h, W, ...]; on the host. None: one picture, called as the task.
        errors: (truth, prediction) of one frame, as `truth` and `picture` have them → uint8 [H, W, 3] RGB: where and
            how far the prediction is off, on the host (drawn by `pictures.errors` in the built-in tasks). None: not
            drawn.
        scored_by: fields that `sums` uses if a batch holds them, such as the labels for the depth error of each class.
            They are read in evaluation alone, and only where all evaluated sets declare them.
        headline: names of the metrics to show first; the first is missing or NaN where the set has no truth.
        minimized: the name of a metric → whether less is better; None: not known.
        auxiliary: the factor of the losses of a network's auxiliary predictions, in training.
    """

    name: str
    fields: tuple[str, ...]
    channels: int
    activation: Callable[[jax.Array], jax.Array]
    loss: Callable[[jax.Array, Batch, str | None], jax.Array]
    valid: Callable[[Batch], jax.Array]
    sums: Callable[[jax.Array, Batch], dict[str, jax.Array]]
    metrics: Callable[[Arrays], dict[str, float]]
    picture: Callable[[jax.Array], jax.Array]
    truth: Callable[[Arrays], np.ndarray]
    colors: Callable[[np.ndarray], np.ndarray]
    files: Callable[[np.ndarray, float], dict[str, np.ndarray]] | None = None
    errors: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    scored_by: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    minimized: Callable[[str], bool] | None = None
    condense: Callable[[Arrays], Arrays] = dict
    auxiliary: float = 1.0

    def metric_names(self, fields: Mapping[str, Field]) -> list[str]:
        """Return all metrics that the task can have, given a data set's fields: those where everything occurs once."""
        size = (2, 2)
        batch = {"mask": jax.ShapeDtypeStruct((1,), np.dtype(np.float32))}
        for name in dict.fromkeys(("image", *self.fields, *self.scored_by)):
            batch[name] = jax.ShapeDtypeStruct((1, *fields[name].shape(size)), fields[name].dtype)
        prediction = jax.ShapeDtypeStruct((1, *size, self.channels), np.dtype(np.float32))
        sums = jax.eval_shape(self.sums, prediction, batch)
        return list(self.metrics(jax.tree.map(lambda x: np.ones(x.shape, x.dtype), sums)))


# (prediction [B, H, W, channels], batch) -> values [B, H, W], and at which pixels they count: bool [B, H, W]
Pixels = Callable[[jax.Array, Batch], tuple[jax.Array, jax.Array]]


def dense(
    name: str,
    channels: int,
    *,
    fields: tuple[str, ...],
    loss: Pixels,
    metrics: Mapping[str, Pixels],
    truth: Callable[[Arrays], np.ndarray],
    colors: Callable[[np.ndarray], np.ndarray],
    activation: Callable[[jax.Array], jax.Array] = lambda output: output,
    errors: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Task:
    """Return a task whose loss and metrics are means over the pixels that count: of the global batch, and of the set.

    `loss` is a function (prediction, batch) → (values [B, H, W], where they count: bool [B, H, W]); values are finite
    everywhere, and where they count does not depend on the prediction. `metrics` is name → a function of the same form;
    the first one is the headline. `truth` has the shape of the prediction, its channels too. All else is as in `Task`.
    """

    def task_loss(prediction: jax.Array, batch: Batch, axis_name: str | None) -> jax.Array:
        values, counts = loss(prediction, batch)
        return losses.masked_mean(jnp.where(counts, values, 0), counts, axis_name)

    def valid(batch: Batch) -> jax.Array:
        return loss(jnp.zeros((*batch["image"].shape[:3], channels)), batch)[1]

    def sums(prediction: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        result = {}
        for key, metric in metrics.items():
            values, counts = metric(prediction, batch)
            counts &= batch["mask"][:, None, None] > 0
            result[f"{key}/sum"] = jnp.sum(jnp.where(counts, values, 0))
            result[f"{key}/pixels"] = jnp.sum(counts)
        return result

    def task_metrics(totals: Arrays) -> dict[str, float]:
        pairs = {key: (totals[f"{key}/sum"], totals[f"{key}/pixels"]) for key in metrics}
        return {key: float(total / pixels) if pixels else float("nan") for key, (total, pixels) in pairs.items()}

    return Task(
        name=name,
        fields=fields,
        channels=channels,
        activation=activation,
        loss=task_loss,
        valid=valid,
        sums=sums,
        metrics=task_metrics,
        picture=lambda prediction: prediction,
        truth=truth,
        colors=colors,
        errors=errors,
        headline=tuple(metrics)[:1],
    )
