"""Exact figures over a whole set: what to count on the devices, and what the counts say.

`confusion_matrix` and `depth_sums` run on a device, batch by batch, and may be summed over devices
with `lax.psum`. `Totals` adds them up on the host in int64 and float64. The other functions read
the figures from the totals, in NumPy. So all figures are pooled over the pixels of the set: no
figure is a mean over batches or images. Padded frames (labels all `ignore`, depth all 0) leave no
trace.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtlflax.data import units

Array = jax.Array

# Predictions below it count as this much in `rmse_log`, `log10` and the δs of the trained unit. It
# is the smallest measurement there is in the default unit, code 1 ("infinitely far") of Cityscapes.
FLOOR = 1 / units.MAX_CODE


class Totals:
    """Sums of a pytree of arrays over batches, on the host.

    Integers add up as int64, anything else as float64. float32 sums leave float64 some 29 bits to
    spare, so that in practice the order of the batches changes nothing.

    >>> totals = Totals()
    >>> for batch in (1, 2):
    ...     totals.add({"count": jnp.asarray([batch, 10])})
    >>> totals.sums["count"]
    array([ 3, 20])

    Attributes:
        sums: a pytree as those added, of NumPy arrays; None before the first.
    """

    def __init__(self) -> None:
        self.sums: Any = None

    def add(self, batch: Any) -> None:
        """Adds a pytree of device or host arrays, of one structure throughout; waits for them."""
        batch = jax.tree.map(_widen, batch)
        self.sums = batch if self.sums is None else jax.tree.map(np.add, self.sums, batch)

    def __add__(self, other: "Totals") -> "Totals":
        total = Totals()
        for part in (self, other):
            if part.sums is not None:
                total.add(part.sums)
        return total


def _widen(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64)


# Segmentation ------------------------------------------------------------------------------------


def confusion_matrix(labels: Array, predictions: Array, num_classes: int, ignore: int = 255) -> Array:
    """Counts the pixels of each pair of true and predicted class.

    Args:
        labels: integers, any shape: 0 to C - 1 or `ignore`.
        predictions: integers of the same shape, 0 to C - 1.
        num_classes: C.
        ignore: the label of pixels to leave out.

    Returns:
        int32 [C, C], rows = truth. Pixels whose label or prediction is no class are left out. One
        batch must hold fewer than 2**31 pixels; `Totals` adds the matrices up as int64.

    Raises:
        ValueError: the two differ in shape.
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
    """Intersection over union of each class.

    Args:
        confusion: integers [C, C], rows = truth.

    Returns:
        float64 [C], in 0..1; NaN for classes neither present nor predicted, as in the official
        Cityscapes evaluator.
    """
    confusion = np.asarray(confusion, np.int64)
    intersection = np.diagonal(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    return np.divide(intersection, union, out=np.full(len(union), np.nan), where=union > 0)


def miou(confusion: np.ndarray) -> float:
    """Mean of `iou` over the classes that have one, NaN where none has."""
    return mean_score(iou(confusion))


def mean_score(scores: np.ndarray) -> float:
    """Mean over the scores that are not NaN, as the official evaluator's; NaN where all are."""
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if scores.size else float("nan")


def category_iou(confusion: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Intersection over union of each category of classes.

    Equal to the official Cityscapes evaluator's category scores for predictions of the 19 train
    classes: it too leaves out pixels whose true label is ignored, those of an ignored label inside
    a category (parking, rail track, ...) included. Only a prediction of an ignored label, which a
    [19, 19] matrix can't hold, would make a difference. A network trained on the 7 categories does
    learn and count such pixels; its scores are `iou` of its own matrix, and are not comparable.

    Args:
        confusion: integers [C, C], rows = truth.
        categories: integers [C], each class's category, from 0.

    Returns:
        float64 [categories.max() + 1]; NaN as in `iou`. Average it with `mean_score`.
    """
    categories = np.asarray(categories)
    merged = np.zeros((categories.max() + 1,) * 2, np.int64)
    np.add.at(merged, (categories[:, None], categories[None, :]), np.asarray(confusion, np.int64))
    return iou(merged)


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Fraction of labelled pixels predicted right, NaN where there are none."""
    confusion = np.asarray(confusion, np.int64)
    pixels = confusion.sum()
    return float(np.trace(confusion) / pixels) if pixels else float("nan")


# Depth -------------------------------------------------------------------------------------------


def depth_sums(prediction: Array, target: Array, focal_baseline: Array, *, unit: str) -> dict[str, Array]:
    """Sums, over a batch, of everything that `depth_metrics` needs.

    Args:
        prediction: float [B, H, W, 1], in `unit`.
        target: float [B, H, W, 1], in `unit`; pixels count where it is finite and above 0.
        focal_baseline: float [B], pixels × metres at full width, 0 where unknown: such frames are
            left out of the sums in metres, unless the unit needs no camera.
        unit: one of `units.UNITS`.

    Returns:
        A sum for each image row, [H], float32 (`count` and `delta...`: int32), so that float32 only
        has to hold a row's sum; the host adds the rows. Names ending in `_metres` are over
        pixels whose true depth lies in `MIN_METRES` to `MAX_METRES` of `depth_units`, with the
        prediction, converted to metres, clipped to the same range.

    Raises:
        ValueError: unknown unit, or prediction and target differ in shape.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} does not fit target {target.shape}")
    camera = focal_baseline[:, None, None, None]
    measured = (target > 0) & (target < jnp.inf)
    sums = _depth_sums(prediction, target, measured)

    near, far = units.MIN_METRES, units.MAX_METRES
    true = units.to_metres(target, camera, unit)
    # An unknown camera, 0, makes every true depth 0 metres: out of range.
    in_range = measured & (true >= near) & (true <= far)
    guess = jnp.clip(units.to_metres(prediction, camera, unit), near, far)
    metres = _depth_sums(guess, true, in_range)
    return sums | {f"{name}_metres": sum_ for name, sum_ in metres.items()}


def _depth_sums(prediction: Array, target: Array, valid: Array) -> dict[str, Array]:
    prediction = jnp.where(valid, prediction, 1).astype(jnp.float32)
    target = jnp.where(valid, target, 1).astype(jnp.float32)
    error = prediction - target
    positive = jnp.maximum(prediction, FLOOR)
    ratio = jnp.maximum(positive / target, target / positive)
    values = {
        "count": valid,
        "target": target,
        "squared_target": jnp.square(target),
        "absolute": jnp.abs(error),
        "squared": jnp.square(error),
        "absolute_relative": jnp.abs(error) / target,
        "squared_relative": jnp.square(error) / target,
        "squared_log": jnp.square(jnp.log(positive / target)),
        "absolute_log10": jnp.abs(jnp.log10(positive / target)),
        **{f"delta{k}": ratio < 1.25**k for k in (1, 2, 3)},
    }
    return {
        name: jnp.sum(jnp.where(valid, value, jnp.zeros_like(value)), axis=(0, 2, 3)) for name, value in values.items()
    }


def depth_metrics(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Reads depth figures from the totals of `depth_sums`.

    | name | over the pixels, with e = prediction − truth |
    |---|---|
    | `rmse`, `mae` | √ mean e², mean abs(e) |
    | `abs_rel`, `sq_rel` | mean abs(e) / truth, mean e² / truth |
    | `rmse_log`, `log10` | √ mean (ln ratio)², mean abs(log10 ratio), ratio = prediction / truth |
    | `delta1`, `delta2`, `delta3` | fraction with max(ratio, 1 / ratio) < 1.25, 1.25², 1.25³ |
    | `rmse_constant` | the best constant's `rmse`: the standard deviation of the truth |

    Each is given in the trained unit and, with `_metres` behind its name, in metres (which pixels:
    see `depth_sums`). Where the logarithm or the ratio is taken, predictions below `FLOOR` count
    as `FLOOR`; everywhere else they count as they are.

    Args:
        totals: `Totals.sums`, rows added up or not.

    Returns:
        Figures by name. Those without a single pixel are left out, as JSON has no NaN; a NaN that
        the network predicted stays one.
    """
    totals = {name: np.sum(rows) for name, rows in totals.items()}
    figures: dict[str, float] = {}
    for suffix in ("", "_metres"):
        count = totals[f"count{suffix}"]
        if count == 0:
            continue
        mean = {
            name.removesuffix(suffix): total / count
            for name, total in totals.items()
            if name.endswith("_metres") == bool(suffix)
        }
        variance = mean["squared_target"] - mean["target"] ** 2
        values = {
            "rmse": np.sqrt(mean["squared"]),
            "mae": mean["absolute"],
            "abs_rel": mean["absolute_relative"],
            "sq_rel": mean["squared_relative"],
            "rmse_log": np.sqrt(mean["squared_log"]),
            "log10": mean["absolute_log10"],
            **{f"delta{k}": mean[f"delta{k}"] for k in (1, 2, 3)},
            "rmse_constant": np.sqrt(max(variance, 0.0)),
        }
        figures |= {f"{name}{suffix}": float(value) for name, value in values.items()}
    return figures
