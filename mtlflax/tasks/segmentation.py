"""Semantic segmentation, in the classes of the field that it reads."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mtlflax import losses, metrics
from mtlflax.data.source import Field, Labels
from mtlflax.tasks import pictures
from mtlflax.tasks.task import Arrays, Batch, Task


def segmentation(
    fields: Mapping[str, Field],
    name: str = "segmentation",
    loss: str = "cross_entropy",
    reads: str = "",
    class_weights: Mapping[str, float] | None = None,
) -> Task:
    """Return a task that predicts the class at each pixel.

    Metrics, from one confusion matrix of the whole set: `miou`, `pixel_accuracy`, `iou/<class>`, and `category_iou`
    where the classes have groups. Classes that do not occur are left out.

    `reads` is the field that holds the truth and the classes, by default the one called as the task; `loss` is a key of
    `losses.SEGMENTATION`, and `class_weights` class name → weight, for those that take weights. UserError if the data
    set has no such field; ValueError for an unknown loss, weights that do not fit, or if the field is no label map with
    at least two classes.
    """
    reads = reads or name
    field = fields[reads]
    if not isinstance(field, Labels) or len(field.classes) < 2:
        raise ValueError(f"the task {name} needs a label map with at least two classes, not {field}")
    classes = len(field.classes)
    loss_function = losses.get(loss, losses.SEGMENTATION)
    if class_weights:
        loss_function = functools.partial(loss_function, class_weights=_weights(field, class_weights, loss))
    palette = np.concatenate([field.colors, np.zeros((1, 3), np.uint8)])  # the last: pixels without a class
    written = np.min_scalar_type(classes - 1)  # uint8 or uint16, whatever the field holds: files and pictures
    groups = {group: i for i, group in enumerate(dict.fromkeys(c.group for c in field.classes))}
    of_class = np.array([groups[c.group] for c in field.classes])

    def task_loss(logits: jax.Array, batch: Batch, axis_name: str | None) -> jax.Array:
        return loss_function(logits, batch[reads], ignore=field.ignore, axis_name=axis_name)

    def sums(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        truth = jnp.where(batch["mask"][:, None, None] > 0, batch[reads], field.ignore)
        confusion = metrics.confusion_matrix(truth, jnp.argmax(logits, axis=-1), classes, field.ignore)
        return {"confusion": confusion}

    def task_metrics(totals: Arrays) -> dict[str, float]:
        confusion = totals["confusion"]
        result = {"miou": metrics.miou(confusion), "pixel_accuracy": metrics.pixel_accuracy(confusion)}
        if 1 < len(groups) < classes and "" not in groups:
            result["category_iou"] = metrics.mean_score(metrics.category_iou(confusion, of_class))
        per_class = dict(zip(field.names, metrics.iou(confusion), strict=True))
        return result | {f"iou/{n}": float(v) for n, v in per_class.items() if not np.isnan(v)}

    def colors(ids: np.ndarray) -> np.ndarray:
        return palette[np.where((ids >= 0) & (ids < classes), ids, classes)]

    def files(logits: np.ndarray, focal_baseline: float) -> dict[str, np.ndarray]:
        del focal_baseline
        ids = np.argmax(logits, axis=-1).astype(written)
        numbers = "trainids" if name == "segmentation" else f"{name}_ids"
        return {name: colors(ids), numbers: ids}

    return Task(
        name=name,
        fields=(reads,),
        channels=classes,
        activation=lambda logits: logits,
        loss=task_loss,
        valid=lambda batch: batch[reads] != field.ignore,
        sums=sums,
        metrics=task_metrics,
        picture=lambda logits: jnp.argmax(logits, axis=-1).astype(written),
        truth=lambda batch: batch[reads],
        colors=colors,
        files=files,
        errors=lambda truth, ids: pictures.errors(truth != ids, truth != field.ignore),
        headline=("miou",),
        minimized=lambda metric: False,
    )


def _weights(field: Labels, class_weights: Mapping[str, float], loss: str) -> np.ndarray:
    """The weights in the order of the classes: float32 [C]."""
    if loss == "dice":
        raise ValueError("losses.class_weights: dice counts all classes alike; choose cross_entropy or ohem")
    if unlike := set(class_weights) ^ set(field.names):
        first = min(unlike)
        what = "is no class" if first in class_weights else "has no weight"
        raise ValueError(f"losses.class_weights: {first!r} {what}: give one to each of {', '.join(field.names)}")
    weights = np.array([class_weights[name] for name in field.names], np.float32)
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(f"losses.class_weights: {weights.tolist()}: give numbers of at least 0, not all 0")
    return weights
