"""Depth, in the unit and the valid range of the field that it reads."""

import itertools
from collections.abc import Mapping

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from mtlflax import losses, metrics
from mtlflax.data.source import Depth, Field, Labels
from mtlflax.data.units import MAX_METRES, MIN_METRES, Unit
from mtlflax.tasks import pictures
from mtlflax.tasks.task import Arrays, Batch, Task

_FARTHEST = 65535 / 256  # metres that a 16-bit file holds
_RANGES = (0, 10, 20, 40, 80)  # metres


def depth(fields: Mapping[str, Field], name: str = "depth", loss: str = "l1", reads: str = "") -> Task:
    """Return a task that predicts the depth at each pixel.

    Metrics (`metrics.depth_metrics`) in the trained unit and, named `<metric>_metres`, in metres, over pixels whose
    true depth is 0.001 to 80 m, predictions clipped to that range; those need `focal_baseline` if the unit is a
    disparity. `mae_metres/<from>-<to>` is the mean absolute error where the true depth is in that range, and
    `class_mae_metres/<class>` at the pixels of a class, if the data set declares a label map (the first one).

    Where the unit has a value for "infinitely far", `infinite_share` is the share of such pixels, which ratios and
    logarithms leave out; `mtan_abs_err` and `mtan_rel_err` include them, as MTAN and LibMTL do.

    `reads` is the field that holds the truth and the unit, by default the one called as the task; `loss` is a key of
    `losses.DEPTH`. UserError if the data set has no such field; ValueError for an unknown loss, or a field that is no
    depth.
    """
    reads = reads or name
    field = fields[reads]
    if not isinstance(field, Depth):
        raise ValueError(f"the task {name} needs a depth, not {field}")
    unit = field.unit
    in_metres = not unit.stereo or "focal_baseline" in fields
    label_maps = {key: found.names for key, found in fields.items() if isinstance(found, Labels) and found.classes}
    label_map, classes = next(iter(label_maps.items()), ("", ()))
    loss_function = losses.get(loss, losses.DEPTH)

    def target(batch: Batch) -> jax.Array:
        """The measurements as float32, 0 where there is none."""
        return jnp.where(field.measured(batch[reads]), batch[reads], 0).astype(jnp.float32)

    def task_loss(prediction: jax.Array, batch: Batch, axis_name: str | None) -> jax.Array:
        return loss_function(prediction, target(batch), axis_name=axis_name)

    def sums(prediction: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        truth = target(batch)
        valid = (truth > 0) & (batch["mask"][:, None, None, None] > 0)
        finite = valid & (truth > np.float32(unit.infinity))
        result = metrics.depth_sums(prediction, truth, valid, finite)
        if in_metres:
            camera = batch["focal_baseline"][:, None, None, None] if unit.stereo else 1.0
            true, guess = unit.to_metres(truth, camera), unit.to_metres(prediction, camera)
            # An unknown camera, 0, makes every true depth 0 metres: out of range.
            known = valid & (true >= MIN_METRES) & (true <= MAX_METRES)
            metres = metrics.depth_sums(jnp.clip(guess, MIN_METRES, MAX_METRES), true, known, known)
            result |= {f"{key}_metres": rows for key, rows in metres.items()}
            error = jnp.abs(jnp.clip(guess, MIN_METRES, MAX_METRES) - jnp.where(known, true, 0))
            for near, far in itertools.pairwise(_RANGES):
                within = known & (true > near) & (true <= far)
                result[f"count_{near}-{far}"] = jnp.sum(within, axis=(0, 2, 3))
                result[f"absolute_{near}-{far}"] = jnp.sum(jnp.where(within, error, 0), axis=(0, 2, 3))
            if label_map in batch:
                of_class = known & jax.nn.one_hot(batch[label_map], len(classes), dtype=bool)  # [B, H, W, C]
                result["count_class"] = jnp.sum(of_class, axis=(0, 2))
                result["absolute_class"] = jnp.sum(jnp.where(of_class, error, 0), axis=(0, 2))
        return result

    def task_metrics(totals: Arrays) -> dict[str, float]:
        in_unit = {key: rows for key, rows in totals.items() if not key.endswith("_metres")}
        result = metrics.depth_metrics(in_unit)
        if unit.infinity and result:
            count, finite = (np.sum(totals[key]) for key in ("count", "comparable"))
            result["infinite_share"] = float(1 - finite / count)
            result["mtan_abs_err"] = result["mae"]
            result["mtan_rel_err"] = float(np.sum(totals["absolute_relative_all"]) / count)
        for near, far in itertools.pairwise(_RANGES):
            if in_metres and (count := np.sum(totals[f"count_{near}-{far}"])):
                result[f"mae_metres/{near}-{far}"] = float(np.sum(totals[f"absolute_{near}-{far}"]) / count)
        if in_metres and "count_class" in totals:
            counts, sums = (totals[key].reshape(-1, len(classes)).sum(0) for key in ("count_class", "absolute_class"))
            for name, count, total in zip(classes, counts, sums, strict=True):
                if count:
                    result[f"class_mae_metres/{name}"] = float(total / count)
        in_m = {key.removesuffix("_metres"): rows for key, rows in totals.items() if key.endswith("_metres")}
        return result | {f"{key}_metres": value for key, value in (metrics.depth_metrics(in_m) if in_m else {}).items()}

    def files(prediction: np.ndarray, focal_baseline: float) -> dict[str, np.ndarray]:
        values = prediction[..., 0]
        metres = unit.to_metres(values, np.float32(focal_baseline))
        known = (metres > 0) & (metres < _FARTHEST)
        codes = np.where(known, np.rint(np.where(known, metres, 0) * 256), 0).astype(np.uint16)
        raw = np.where(metres > 0, metres, 0).astype(np.float32)
        return {name: codes, f"{name}_color": colors(values, unit), f"{name}_metres": raw}

    def errors(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Half the truth or more is red; "infinitely far" is not drawn."""
        known = field.measured(truth) & (truth > np.float32(unit.infinity))
        share = np.abs(prediction - truth) / np.where(known, truth, 1) / 0.5
        return pictures.errors(share[..., 0], known[..., 0])

    return Task(
        name=name,
        fields=(reads, "focal_baseline") if unit.stereo and in_metres else (reads,),
        channels=1,
        # A new network's head is near 0, and Adam moves a weight by about the learning rate per step: in units whose
        # values run to hundreds it would take long to get there.
        activation=lambda output: unit.typical * output,
        loss=task_loss,
        valid=lambda batch: field.measured(batch[reads]),
        sums=sums,
        metrics=task_metrics,
        picture=lambda prediction: prediction,
        truth=lambda batch: batch[reads].astype(np.float32),
        colors=lambda values: colors(values[..., 0], unit),
        files=files,
        errors=errors,
        scored_by=(label_map,) if label_map and in_metres else (),
        headline=("rmse", "rmse_constant"),
        minimized=lambda metric: not metric.startswith("delta"),
        condense=lambda sums: {key: rows.sum(axis=1) for key, rows in sums.items()},
    )


def colors(values: np.ndarray, unit: Unit) -> np.ndarray:
    """Draw a depth map, float32 [H, W]: near is bright, far is dark, exactly 0 is black.

    The scale, the square root of inverse depth, is the same for every picture, so that pictures can be compared.

    Returns uint8 [H, W, 3], RGB.
    """
    nearness = values / unit.near if unit.inverse else unit.near / np.maximum(values, 2e-4 * unit.near)
    share = np.sqrt(np.clip(nearness, 0, 1))
    drawn = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_MAGMA)[..., ::-1]
    return np.where((values == 0)[..., None], np.uint8(0), np.maximum(drawn, np.uint8(1)))
