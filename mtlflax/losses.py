"""Losses for segmentation and depth, each over the valid pixels of the global batch.

Every loss is a pure function that returns one float32 scalar. Its arguments:

* `logits`, float [B, H, W, C], and `labels`, integers [B, H, W], 0 to C - 1 or `ignore`, the label of pixels to leave
  out. Any other label makes the loss NaN.
* `prediction` and `target`, float [B, H, W, 1] in one unit. Measured are pixels with a finite target above 0.
* `axis_name`, the mapped axis over which the batch is spread, if any. The loss sums over it before it divides, so each
  device returns the loss of the whole batch however the valid pixels fall on the devices. A gradient taken per device
  inside `jax.pmap` or `jax.shard_map(check_vma=False)` and then averaged with `lax.pmean` is the gradient of that loss
  (there, `psum` is its own transpose).

A batch without a valid pixel has loss 0 and gradient 0. What predictions and targets hold at invalid pixels, NaN and
infinity included, changes neither. Shapes that do not fit are a ValueError.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax

from mtlflax.compiler import barrier

Array = jax.Array


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore: int = 255,
    class_weights: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Softmax cross-entropy, averaged over the pixels whose label is not `ignore`, in nats.

    With `class_weights`, float32 [C], each pixel counts as its class does, and the weighted sum is divided by the sum
    of the weights, as in PyTorch.
    """
    valid, wrong, own_class, logits = _mask_segmentation(logits, labels, ignore)
    return _class_mean(_surprise(wrong, own_class, logits), valid, own_class, class_weights, axis_name)


def ohem(
    logits: Array,
    labels: Array,
    *,
    ignore: int = 255,
    class_weights: Array | None = None,
    threshold: float = 0.7,
    least: float = 1 / 16,
    axis_name: str | None = None,
) -> Array:
    """Cross-entropy over hard pixels alone: online hard-example mining (Shrivastava et al. 2016, arXiv 1604.03540).

    Hard are the pixels whose own class has a probability up to `threshold`; if these are fewer than a share `least` of
    all labeled pixels of the global batch, then that share, the least probable ones (to 1/1000 of a probability, ties
    included). No gradient passes through the choice. `class_weights` are as in `cross_entropy`.
    """
    valid, wrong, own_class, logits = _mask_segmentation(logits, labels, ignore)
    errors = _surprise(wrong, own_class, logits)
    # Counted in bins, so that the choice is the same however the pixels are spread over devices.
    bins = jnp.clip(jnp.ceil(_OHEM_BINS * jnp.exp(-lax.stop_gradient(errors))), 0, _OHEM_BINS).astype(jnp.int32)
    # What is no number counts as hard, so that it stays noticeable.
    bins = jnp.where(jnp.isnan(errors), 0, bins)
    counts = jnp.zeros(_OHEM_BINS + 1).at[bins.reshape(-1)].add(valid.reshape(-1).astype(jnp.float32))
    reached = jnp.cumsum(_psum(counts, axis_name))
    enough = jnp.argmax(reached >= least * reached[-1])
    hard = valid & (bins <= jnp.maximum(round(threshold * _OHEM_BINS), enough))
    return _class_mean(errors, hard, own_class, class_weights, axis_name)


def dice(logits: Array, labels: Array, *, ignore: int = 255, axis_name: str | None = None) -> Array:
    """One minus the soft Dice coefficient, averaged over the classes in the global batch: in 0..1.

    With p the softmax probabilities and t the one-hot labels, summed over all valid pixels of the global batch, Dice_c
    = 2 Σ p_c t_c / (Σ p_c² + Σ t_c²): the squared form of Milletari et al. 2016 (V-Net, section 3), taken class by
    class. Classes that no valid pixel has are skipped, so that no denominator comes near 0, and nothing is added to it.
    """
    valid, wrong, own_class, logits = _mask_segmentation(logits, labels, ignore)
    probabilities = jnp.where(valid[..., None], jax.nn.softmax(logits, axis=-1), 0)
    pixels = (0, 1, 2)
    overlap = _psum(jnp.sum(jnp.where(own_class, probabilities, 0), axis=pixels), axis_name)
    predicted = _psum(jnp.sum(jnp.square(probabilities), axis=pixels), axis_name)
    true = _psum(jnp.sum(own_class, axis=pixels).astype(jnp.float32), axis_name)

    present = true > 0
    coefficients = 2 * overlap / jnp.where(present, predicted + true, 1)
    losses = jnp.where(present, 1 - coefficients, 0)
    loss = jnp.sum(losses) / jnp.maximum(jnp.sum(present), 1)
    return loss * jnp.where(_psum(jnp.sum(wrong), axis_name) > 0, jnp.nan, 1.0)


def l1(prediction: Array, target: Array, *, axis_name: str | None = None) -> Array:
    """Mean absolute error over measured pixels, in the target's unit."""
    errors, valid = _depth_errors(prediction, target)
    return masked_mean(jnp.abs(errors), valid, axis_name)


def l2(prediction: Array, target: Array, *, axis_name: str | None = None) -> Array:
    """Mean squared error over measured pixels."""
    errors, valid = _depth_errors(prediction, target)
    return masked_mean(jnp.square(errors), valid, axis_name)


def berhu(prediction: Array, target: Array, *, axis_name: str | None = None) -> Array:
    """Reverse Huber loss (Laina et al. 2016, equation 1).

    The mean over measured pixels of |e| up to c and (e² + c²) / 2c beyond, where c is a fifth of the largest |e| in the
    global batch. No gradient passes through c.
    """
    errors, valid = _depth_errors(prediction, target)
    sizes = jnp.abs(errors)
    largest = jnp.max(lax.stop_gradient(sizes))
    if axis_name is not None:
        largest = lax.pmax(largest, axis_name)
    # Where every error is 0, c is too, and no pixel lies beyond it: any divisor will do.
    c = jnp.where(largest > 0, 0.2 * largest, 1)
    squares = (jnp.square(sizes) + jnp.square(c)) / (2 * c)
    return masked_mean(jnp.where(sizes <= c, sizes, squares), valid, axis_name)


def silog(prediction: Array, target: Array, *, floor: float = 1e-3, axis_name: str | None = None) -> Array:
    """Scale-invariant logarithmic loss of Eigen et al. 2014, equation 4, with λ = 0.5.

    With d = log prediction − log target at an image's n measured pixels, the image's loss is Σd² / n − λ (Σd)² / n².
    The batch's is the mean over the images that have a measurement, all devices taken together.

    Below `floor`, the logarithm is continued by its mirror image in the point (floor, log floor), log x = 2 log floor −
    log(2 floor − x): smooth there, defined for predictions of 0 and less, and flat nowhere.

    `floor` is in the target's unit; the default is below all of Cityscapes' finite measurements, whatever their unit.
    """
    valid = _measured(prediction, target)
    # Masked before the logarithm as well as after: 0 times the slope of log(junk) may be NaN.
    prediction = jnp.where(valid, prediction, 1)
    d = jnp.where(valid, _log(prediction, floor) - _log(target, floor), 0)

    pixels = (1, 2, 3)
    n = jnp.maximum(jnp.sum(valid, axis=pixels), 1)
    images = jnp.sum(d**2, axis=pixels) / n - 0.5 * (jnp.sum(d, axis=pixels) / n) ** 2
    return masked_mean(images, jnp.any(valid, axis=pixels), axis_name)


def masked_mean(values: Array, valid: Array, axis_name: str | None = None) -> Array:
    """The mean over the valid elements of the global batch, 0 where there are none.

    `values` are float, 0 where they are not `valid`, bool of the same shape.
    """
    total = _psum(jnp.sum(values), axis_name)
    count = _psum(jnp.sum(valid).astype(jnp.float32), axis_name)
    return total / jnp.maximum(count, 1)


_OHEM_BINS = 1000  # of a probability

SEGMENTATION: Mapping[str, Callable[..., Array]] = {"cross_entropy": cross_entropy, "dice": dice, "ohem": ohem}
DEPTH: Mapping[str, Callable[..., Array]] = {"l1": l1, "l2": l2, "berhu": berhu, "silog": silog}


def get(name: str, among: Mapping[str, Callable[..., Array]] | None = None) -> Callable[..., Array]:
    """Return the loss of that name among those given, by default all; ValueError if there is none."""
    known = {**SEGMENTATION, **DEPTH} if among is None else among
    if name not in known:
        raise ValueError(f"unknown loss {name!r}: choose from {', '.join(known)}")
    return known[name]


def _mask_segmentation(logits: Array, labels: Array, ignore: int) -> tuple[Array, Array, Array, Array]:
    """Make the logits harmless where there is nothing to learn; ValueError if the labels do not fit them.

    Returns:
        Which pixels are not ignored, bool [B, H, W]; which of these have a label that is no class, bool [B, H, W];
        which class is a pixel's own, bool [B, H, W, C], none where it is ignored or no class; and float32 logits, 0 at
        those pixels.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits {logits.shape} do not fit labels {labels.shape}")
    valid = labels != ignore
    known = valid & (labels >= 0) & (labels < logits.shape[-1])
    classes = lax.broadcasted_iota(jnp.int32, logits.shape, 3)
    own_class = (labels[..., None].astype(jnp.int32) == classes) & known[..., None]
    # Stored once, here: XLA would also keep them unmasked, and mask them anew for each operation that reads them.
    (logits,) = barrier(jnp.where(known[..., None], logits, 0).astype(jnp.float32))
    return valid, valid & ~known, own_class, logits


def _surprise(wrong: Array, own_class: Array, logits: Array) -> Array:
    """−log of the probability of each pixel's own class, [B, H, W]; NaN where the label is no class."""
    # A masked sum instead of a gather: the gather's transpose is a scatter, slow on TPUs.
    own_logit = jnp.sum(jnp.where(own_class, logits, 0), axis=-1)
    # NaN is made only where a label is wrong: with JAX_DEBUG_NANS, any other would stop a run that is right.
    return jax.nn.logsumexp(logits, axis=-1) - own_logit + jnp.where(wrong, jnp.nan, 0.0)


def _class_mean(
    values: Array, counts: Array, own_class: Array, class_weights: Array | None, axis_name: str | None
) -> Array:
    """The mean of values [B, H, W] over the pixels of the global batch that count, each weighted as its class."""
    if class_weights is None:
        return masked_mean(jnp.where(counts, values, 0), counts, axis_name)
    weights = jnp.asarray(class_weights, jnp.float32)
    if weights.shape != own_class.shape[-1:]:
        raise ValueError(f"class_weights {weights.shape} do not fit {own_class.shape[-1]} classes")
    of_pixel = jnp.where(counts, jnp.sum(jnp.where(own_class, weights[None, None, None], 0), axis=-1), 0)
    total = _psum(jnp.sum(jnp.where(counts, values * of_pixel, 0)), axis_name)
    whole = _psum(jnp.sum(of_pixel), axis_name)
    return total / jnp.where(whole > 0, whole, 1)


def _measured(prediction: Array, target: Array) -> Array:
    # Shapes that only broadcast, [B, H, W] and [B, H, W, 1], would pair every row with every pixel.
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} does not fit target {target.shape}")
    return (target > 0) & (target < jnp.inf)


def _depth_errors(prediction: Array, target: Array) -> tuple[Array, Array]:
    valid = _measured(prediction, target)
    return jnp.where(valid, prediction - target, 0).astype(jnp.float32), valid


def _log(x: Array, floor: float) -> Array:
    x = x.astype(jnp.float32)
    above = x >= floor
    log = jnp.log(jnp.where(above, x, 2 * floor - x))
    return jnp.where(above, log, 2 * math.log(floor) - log)


def _psum(x: Array, axis_name: str | None) -> Array:
    return x if axis_name is None else lax.psum(x, axis_name)
