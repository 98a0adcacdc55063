"""Exact figures over a whole set: what to count on the devices, and what the counts say.

`confusion_matrix` and `depth_sums` run on a device, batch by batch, and may be summed over devices with `lax.psum`;
`Totals` adds them up on the host. The other functions read the figures from the totals, in NumPy. So all figures are
pooled over the pixels of the set: no figure is a mean over batches or images. Padded frames (labels all `ignore`, depth
all 0) leave no trace.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# Predictions below this count as this much in ratios and logarithms: the smallest measurement in Cityscapes' default
# unit, the code 1 of 65535.
FLOOR = 1 / 65535


class Totals:
    """Sums of a pytree of arrays over batches, on the host: `sums`, of NumPy arrays; None before the first.

    Integers add up as int64, anything else as float64. float32 sums leave float64 some 29 bits to spare, so that in
    practice the order of the batches changes nothing.
    """

    def __init__(self) -> None:
        self.sums: Any = None

    def add(self, batch: Any) -> None:
        """Add a pytree of device or host arrays, of one structure throughout; waits for them."""
        batch = jax.tree.map(_widen, batch)
        self.sums = batch if self.sums is None else jax.tree.map(np.add, self.sums, batch)


def _widen(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64)


def confusion_matrix(labels: Array, predictions: Array, num_classes: int, ignore: int = 255) -> Array:
    """Count the pixels of each pair of true and predicted class: int32 [C, C], rows = truth.

    Labels and predictions are integers of one shape. Pixels whose label or prediction is no class are left out, as is
    the label `ignore`. One batch must hold fewer than 2**31 pixels; `Totals` adds the matrices up as int64. ValueError
    if the two differ in shape.
    """
    if labels.shape != predictions.shape:
        raise ValueError(f"labels {labels.shape} do not fit predictions {predictions.shape}")
    labels, predictions = labels.astype(jnp.int32), predictions.astype(jnp.int32)
    counted = labels != ignore
    for ids in (labels, predictions):
        counted &= (ids >= 0) & (ids < num_classes)
    cells = num_classes * num_classes
    pairs = jnp.where(counted, labels * num_classes + predictions, cells)  # the last: left out
    counts = jnp.bincount(pairs.reshape(-1), length=cells + 1)[:cells]
    return counts.reshape(num_classes, num_classes).astype(jnp.int32)


def iou(confusion: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class: float64 [C], in 0..1, from integers [C, C], rows = truth.

    NaN for classes neither present nor predicted, as in the official Cityscapes evaluator.
    """
    confusion = np.asarray(confusion, np.int64)
    intersection = np.diagonal(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    return np.divide(intersection, union, out=np.full(len(union), np.nan), where=union > 0)


def miou(confusion: np.ndarray) -> float:
    """Return the mean of `iou` over the classes that have one, NaN where none has."""
    return mean_score(iou(confusion))


def mean_score(scores: np.ndarray) -> float:
    """Return the mean over the scores that are not NaN, as the official evaluator's; NaN where all are."""
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if scores.size else float("nan")


def category_iou(confusion: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each category of classes; NaN as in `iou`.

    Equal to the official Cityscapes evaluator's category scores for predictions of the 19 train classes: it too leaves
    out pixels whose true label is ignored, those of an ignored label inside a category (parking, rail track, ...)
    included. Only a prediction of an ignored label, which a [19, 19] matrix can't hold, would make a difference. A
    network trained on the 7 categories does learn and count such pixels; its scores are `iou` of its own matrix, and
    are not comparable.

    `categories` are integers [C], each class's category, from 0.
    """
    categories = np.asarray(categories)
    merged = np.zeros((categories.max() + 1,) * 2, np.int64)
    np.add.at(merged, (categories[:, None], categories[None, :]), np.asarray(confusion, np.int64))
    return iou(merged)


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Return the fraction of labeled pixels predicted right, NaN where there are none."""
    confusion = np.asarray(confusion, np.int64)
    pixels = confusion.sum()
    return float(np.trace(confusion) / pixels) if pixels else float("nan")


def depth_sums(prediction: Array, target: Array, valid: Array, comparable: Array) -> dict[str, Array]:
    """Sum, over a batch, everything that `depth_metrics` needs.

    Args:
        prediction: float [B, H, W, 1].
        target: the same, in the same unit; ValueError if it has another shape.
        valid: bool [B, H, W, 1]: the pixels that count.
        comparable: bool [B, H, W, 1]: those of them whose ratio to the truth means something: not "infinitely far".

    Returns:
        A sum for each image row, [H], float32 (counts: int32), so that float32 only has to hold a row's sum; the host
        adds the rows.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} does not fit target {target.shape}")
    prediction = jnp.where(valid, prediction, 1).astype(jnp.float32)
    target = jnp.where(valid, target, 1).astype(jnp.float32)
    error = prediction - target
    positive = jnp.maximum(prediction, FLOOR)
    ratio = jnp.maximum(positive / target, target / positive)
    of_valid = {
        "count": valid,
        "target": target,
        "squared_target": jnp.square(target),
        "absolute": jnp.abs(error),
        "squared": jnp.square(error),
        "absolute_relative_all": jnp.abs(error) / target,
    }
    of_comparable = {
        "comparable": comparable,
        "abs_rel": jnp.abs(error) / target,
        "sq_rel": jnp.square(error) / target,
        "squared_log": jnp.square(jnp.log(positive / target)),
        "log10": jnp.abs(jnp.log10(positive / target)),
        **{f"delta{k}": ratio < 1.25**k for k in (1, 2, 3)},
    }

    def rows(value: Array, counts: Array) -> Array:
        return jnp.sum(jnp.where(counts, value, jnp.zeros_like(value)), axis=(0, 2, 3))

    sums = {name: rows(value, valid) for name, value in of_valid.items()}
    return sums | {name: rows(value, comparable) for name, value in of_comparable.items()}


def depth_metrics(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Read depth figures, by name, from the totals of `depth_sums`, their rows added up or not.

    | name | with e = prediction − truth |
    |---|---|
    | `rmse`, `mae` | √ mean e², mean abs(e), over the valid pixels |
    | `rmse_constant` | the best constant's `rmse`: the standard deviation of the truth |
    | `abs_rel`, `sq_rel` | mean abs(e) / truth, mean e² / truth, over the comparable pixels, as all below |
    | `rmse_log`, `log10` | √ mean (ln ratio)², mean abs(log10 ratio), ratio = prediction / truth |
    | `delta1`, `delta2`, `delta3` | fraction with max(ratio, 1 / ratio) < 1.25, 1.25², 1.25³ |

    Where the logarithm or the ratio is taken, predictions below `FLOOR` count as `FLOOR`; everywhere else they count as
    they are. Figures without a single pixel are left out, as JSON has no NaN; a NaN that the network predicted stays
    one.
    """
    totals = {name: np.sum(rows) for name, rows in totals.items()}
    count, comparable = totals["count"], totals["comparable"]
    figures: dict[str, float] = {}
    if count:
        mean, square = totals["target"] / count, totals["squared_target"] / count
        figures["rmse"] = float(np.sqrt(totals["squared"] / count))
        figures["mae"] = float(totals["absolute"] / count)
        figures["rmse_constant"] = float(np.sqrt(max(square - mean**2, 0.0)))
    if comparable:
        figures["rmse_log"] = float(np.sqrt(totals["squared_log"] / comparable))
        means = ("abs_rel", "sq_rel", "log10", "delta1", "delta2", "delta3")
        figures |= {name: float(totals[name] / comparable) for name in means}
    return figures
