"""What a task is: a head, a loss and metrics. Segmentation and depth are two of them.

A task sees batches as the loader makes them (`image`, `segmentation`, `depth`, `focal_baseline`, and in evaluation
`mask`) and knows nothing of the network, the weighting or the other tasks. One of your own is a function from a
configuration to a `Task`, named "package.module:function" in `config.tasks`; `dense` makes it of a loss and metrics
given pixel by pixel, and `configs/three_tasks.py` is an example.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtlflax import losses, metrics, registry
from mtlflax.data import labels, units
from mtlflax.tasks import pictures

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Task:
    """One dense task.

    Attributes:
        name: as in `config.tasks` and the metrics' names.
        channels: of the head's output.
        activation: head output [B, H, W, channels] → prediction, same shape.
        loss: (prediction, batch, axis_name) → float32 [], over the global batch: sums and counts are reduced over the
            axis before they are divided.
        sums: (prediction, batch) → arrays to be added up over the evaluation set, on the device. Rows of `batch` whose
            `mask` is 0 count for nothing.
        metrics: the added-up sums (NumPy, float64 or int64) → name → value, on the host.
        picture: prediction → a map in the form of the truth, on the device.
        truth: batch → what the prediction should be, [B, H, W, ...], on the host; for pictures.
        colours: such a map of one frame → uint8 [H, W, 3] RGB, on the host.
        auxiliary: what the losses of a network's auxiliary predictions, in training, are multiplied by.
    """

    name: str
    channels: int
    activation: Callable[[jax.Array], jax.Array]
    loss: Callable[[jax.Array, Batch, str | None], jax.Array]
    sums: Callable[[jax.Array, Batch], dict[str, jax.Array]]
    metrics: Callable[[Mapping[str, np.ndarray]], dict[str, float]]
    picture: Callable[[jax.Array], jax.Array]
    truth: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    colours: Callable[[np.ndarray], np.ndarray]
    auxiliary: float = 1.0


# (prediction [B, H, W, channels], batch) -> values [B, H, W], and at which pixels they count: bool [B, H, W]
Pixels = Callable[[jax.Array, Batch], tuple[jax.Array, jax.Array]]


def dense(
    name: str,
    channels: int,
    *,
    loss: Pixels,
    metrics: Mapping[str, Pixels],
    truth: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    colours: Callable[[np.ndarray], np.ndarray],
    activation: Callable[[jax.Array], jax.Array] = lambda output: output,
) -> Task:
    """A task whose loss and metrics are means over the pixels that count: of the global batch, and of the whole set.

    Args:
        name: of the task.
        channels: of the head's output.
        loss: values, finite everywhere, and where they count. A batch without any has loss 0.
        metrics: name → the same, of a metric.
        truth: as in `Task`.
        colours: as in `Task`.
        activation: as in `Task`.
    """

    def task_loss(prediction: jax.Array, batch: Batch, axis_name: str | None) -> jax.Array:
        values, counts = loss(prediction, batch)
        return losses.masked_mean(jnp.where(counts, values, 0), counts, axis_name)

    def sums(prediction: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        result = {}
        for key, metric in metrics.items():
            values, counts = metric(prediction, batch)
            counts &= batch["mask"][:, None, None] > 0
            result[f"{key}/sum"] = jnp.sum(jnp.where(counts, values, 0))
            result[f"{key}/pixels"] = jnp.sum(counts)
        return result

    def task_metrics(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
        pairs = {key: (totals[f"{key}/sum"], totals[f"{key}/pixels"]) for key in metrics}
        return {key: float(total / pixels) if pixels else float("nan") for key, (total, pixels) in pairs.items()}

    return Task(
        name=name,
        channels=channels,
        activation=activation,
        loss=task_loss,
        sums=sums,
        metrics=task_metrics,
        picture=lambda prediction: prediction,
        truth=truth,
        colours=colours,
    )


def segmentation(classes: int = 19, loss: str = "cross_entropy") -> Task:
    """Semantic segmentation in Cityscapes' 19 train ids or 7 categories.

    Metrics: `miou`, `pixel_accuracy`, `iou/<class>`, and with 19 classes `category_iou`, from one confusion matrix of
    the whole set. Classes that do not occur are left out.

    Raises:
        ValueError: unknown loss, or another number of classes.
    """
    names = labels.names(classes)
    loss_function = losses.get(loss, losses.SEGMENTATION)

    def task_loss(logits: jax.Array, batch: Batch, axis_name: str | None) -> jax.Array:
        return loss_function(logits, batch["segmentation"], axis_name=axis_name)

    def sums(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        truth = jnp.where(batch["mask"][:, None, None] > 0, batch["segmentation"], 255)
        confusion = metrics.confusion_matrix(truth, jnp.argmax(logits, axis=-1), classes)
        return {"confusion": confusion}

    def task_metrics(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
        confusion = totals["confusion"]
        result = {
            "miou": metrics.miou(confusion),
            "pixel_accuracy": metrics.pixel_accuracy(confusion),
        }
        if classes == 19:
            categories = metrics.category_iou(confusion, labels.TRAIN_TO_CATEGORY)
            result["category_iou"] = metrics.mean_score(categories)
        per_class = dict(zip(names, metrics.iou(confusion), strict=True))
        return result | {f"iou/{n}": float(v) for n, v in per_class.items() if not np.isnan(v)}

    return Task(
        name="segmentation",
        channels=classes,
        activation=lambda logits: logits,
        loss=task_loss,
        sums=sums,
        metrics=task_metrics,
        picture=lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.uint8),
        truth=lambda batch: batch["segmentation"],
        colours=lambda ids: pictures.segmentation_colours(ids, labels.colors(classes)),
    )


# A new network's head is near 0, and Adam moves a weight by about the learning rate a step: units whose values run to
# hundreds would take long to reach. The head's output is multiplied by a typical value of the unit.
_SCALE = {
    "normalised_disparity": 1.0,
    "disparity": 25.0,
    "inverse_metres": 0.1,
    "metres": 25.0,
}


def depth(unit: str = "normalised_disparity", loss: str = "l1") -> Task:
    """Depth in one of the units of `depth_units`; 0 in the truth is "no measurement".

    Metrics in the trained unit (`rmse`, `abs_rel`, …, and `rmse_constant`, the best constant's) and in metres
    (`rmse_metres`, …): see `metrics.depth_metrics`.

    Raises:
        ValueError: unknown unit or loss.
    """
    scale = _SCALE[units.check(unit)]
    loss_function = losses.get(loss, losses.DEPTH)

    def task_loss(prediction: jax.Array, batch: Batch, axis_name: str | None) -> jax.Array:
        return loss_function(prediction, batch["depth"], axis_name=axis_name)

    def sums(prediction: jax.Array, batch: Batch) -> dict[str, Any]:
        truth = jnp.where(batch["mask"][:, None, None, None] > 0, batch["depth"], 0)
        return metrics.depth_sums(prediction, truth, batch["focal_baseline"], unit=unit)

    return Task(
        name="depth",
        channels=1,
        activation=lambda output: scale * output,
        loss=task_loss,
        sums=sums,
        metrics=metrics.depth_metrics,
        picture=lambda prediction: prediction,
        truth=lambda batch: batch["depth"],
        colours=lambda values: pictures.depth_colours(values[..., 0], unit),
    )


def from_config(config: Any) -> tuple[Task, ...]:
    """The tasks of `config.tasks`, in that order: built in ones, or "package.module:function", called with the config.

    Raises:
        ValueError: unknown task, class count, unit or loss; a function that cannot be found or gives no task; a name
            that occurs twice.
    """
    makers: dict[str, Callable[[Any], Task]] = {
        "segmentation": lambda config: segmentation(config.data.classes, config.losses.segmentation),
        "depth": lambda config: depth(config.data.depth, config.losses.depth),
    }
    made = []
    for name in config.tasks:
        task = registry.find(name, makers, what="task")(config)
        if not isinstance(task, Task):
            raise ValueError(f"tasks: {name!r} gives a {type(task).__name__}, not a mtlflax.tasks.Task")
        made.append(dataclasses.replace(task, auxiliary=config.losses.auxiliary))
    names = [task.name for task in made]
    if not made or len(set(names)) < len(names):
        raise ValueError(f"tasks is {tuple(config.tasks)}: {'a task is there twice' if made else 'give at least one'}")
    return tuple(made)
