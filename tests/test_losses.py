"""Losses against float64 loops, on one device and on four, with holes in the labels."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from mtlflax import losses

B, H, W, C, F = 8, 6, 7, 5, 3
NAMES = [*losses.SEGMENTATION, *losses.DEPTH]


# What the papers say, a pixel at a time, in float64 ----------------------------------------------


def cross_entropies(logits, labels):
    rows = zip(logits.reshape(-1, C), labels.reshape(-1), strict=True)
    return [(math.log(sum(math.exp(x) for x in row)) - row[label], label) for row, label in rows if label != 255]


def cross_entropy(logits, labels, weights=(1,) * C):
    terms = cross_entropies(logits, labels)
    return sum(weights[label] * term for term, label in terms) / sum(weights[label] for _, label in terms)


def ohem(logits, labels, threshold=0.7, least=1 / 16):
    terms = sorted((term for term, _ in cross_entropies(logits, labels)), reverse=True)
    hard = [term for term in terms if math.exp(-term) <= threshold]
    number = max(len(hard), math.ceil(least * len(terms)))
    # A probability of 1/1000 is not divided further.
    last = math.ceil(1000 * math.exp(-terms[number - 1]))
    chosen = [term for term in terms if term in hard or math.ceil(1000 * math.exp(-term)) <= last]
    return sum(chosen) / len(chosen)


def dice(logits, labels):
    overlap, predicted, true = np.zeros(C), np.zeros(C), np.zeros(C)
    for row, label in zip(logits.reshape(-1, C), labels.reshape(-1), strict=True):
        if label != 255:
            p = np.exp(row) / np.exp(row).sum()
            t = np.eye(C)[label]
            overlap, predicted, true = overlap + p * t, predicted + p**2, true + t**2
    scores = [2 * overlap[c] / (predicted[c] + true[c]) for c in range(C) if true[c]]
    return 1 - sum(scores) / len(scores)


def measured(prediction, target):
    pairs = zip(prediction.reshape(-1), target.reshape(-1), strict=True)
    return [(p, t) for p, t in pairs if 0 < t < math.inf]


def l1(prediction, target):
    return np.mean([abs(p - t) for p, t in measured(prediction, target)])


def l2(prediction, target):
    return np.mean([(p - t) ** 2 for p, t in measured(prediction, target)])


def berhu(prediction, target, c=None):
    errors = [abs(p - t) for p, t in measured(prediction, target)]
    c = 0.2 * max(errors) if c is None else c
    return np.mean([e if e <= c else (e * e + c * c) / (2 * c) for e in errors])


def silog(prediction, target, floor=1e-3):
    def log(x):
        if x >= floor:
            return math.log(x)
        return 2 * math.log(floor) - math.log(2 * floor - x)

    images = []
    for p_image, t_image in zip(prediction, target, strict=True):
        d = [log(p) - log(t) for p, t in measured(p_image, t_image)]
        if d:
            images.append(np.mean(np.square(d)) - 0.5 * np.mean(d) ** 2)
    return np.mean(images)


REFERENCE = {f.__name__: f for f in (cross_entropy, dice, ohem, l1, l2, berhu, silog)}


@functools.cache  # one compilation serves the tests of this file
def value_and_gradient(name):
    return jax.jit(jax.value_and_grad(losses.get(name)))


def example(name, seed=0):
    """Output [B, H, W, channels] and truth: a class missing, images 2 and 3 all invalid."""
    rng = np.random.default_rng(seed)
    if name in losses.SEGMENTATION:
        output = 2 * rng.normal(size=(B, H, W, C))
        truth = rng.integers(0, C - 1, (B, H, W)).astype(np.uint8)
        holes, hole = (B, H, W), 255
    else:
        # Predictions are around the truth, some negative, some far too large; some pixels have
        # the code 1 of Cityscapes, infinitely far.
        truth = rng.uniform(0.01, 0.5, (B, H, W, 1)).astype(np.float32)
        truth[rng.random(truth.shape) < 0.1] = 1 / 65535
        output = truth + rng.standard_t(2, size=truth.shape) * 0.1
        holes, hole = (B, H, W, 1), 0
    truth[rng.random(holes) < rng.uniform(0.1, 0.9, (B,) + (1,) * (len(holes) - 1))] = hole
    truth[2:4] = hole
    return output.astype(np.float32), truth


@pytest.mark.parametrize("name", NAMES)
def test_value_is_the_papers(name):
    output, truth = example(name)
    loss, _ = value_and_gradient(name)(output, truth)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, REFERENCE[name](output.astype(float), truth), rtol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_the_reference(name):
    output, truth = example(name)
    gradient = np.asarray(value_and_gradient(name)(output, truth)[1])
    reference, wide = REFERENCE[name], output.astype(float)
    if name == "berhu":  # no gradient passes through the threshold
        c = 0.2 * max(abs(p - t) for p, t in measured(wide, truth))
        reference = functools.partial(berhu, c=c)
    rng = np.random.default_rng(1)
    for index in zip(*(rng.integers(0, n, 25) for n in output.shape), strict=True):
        step = np.zeros_like(wide)
        step[index] = 1e-6
        slope = (reference(wide + step, truth) - reference(wide - step, truth)) / 2e-6
        np.testing.assert_allclose(gradient[index], slope, rtol=1e-4, atol=1e-8)


def test_weighted_cross_entropy():
    output, truth = example("cross_entropy")
    weights = np.array([0.5, 3, 0, 1, 9], np.float32)
    loss = jax.jit(functools.partial(losses.cross_entropy, class_weights=weights))(output, truth)
    np.testing.assert_allclose(loss, cross_entropy(output.astype(float), truth, weights), rtol=2e-6)
    with pytest.raises(ValueError, match=r"class_weights \(4,\) do not fit 5 classes"):
        losses.cross_entropy(jnp.asarray(output), jnp.asarray(truth), class_weights=weights[:4])
    nothing = functools.partial(losses.cross_entropy, class_weights=np.zeros(C, np.float32))
    value, gradient = jax.value_and_grad(nothing)(jnp.asarray(output), jnp.asarray(truth))
    assert value == 0
    assert not np.asarray(gradient).any()


def test_hard_examples():
    """Those below the threshold, or a share of all; four pixels of probabilities .1, .5, .8, .9."""
    probabilities = np.array([0.1, 0.5, 0.8, 0.9])
    logits = np.log(np.stack([probabilities, 1 - probabilities], axis=-1))[None, None].astype(np.float32)
    labels = np.zeros((1, 1, 4), np.uint8)
    for threshold, least, count in ((0.7, 1 / 16, 2), (0.85, 1 / 16, 3), (0.05, 1 / 16, 1), (0.05, 0.75, 3)):
        loss = losses.ohem(jnp.asarray(logits), jnp.asarray(labels), threshold=threshold, least=least)
        np.testing.assert_allclose(loss, -np.log(probabilities[:count]).mean(), rtol=1e-5)
    weights = np.array([2.0, 1.0])
    weighted = losses.ohem(jnp.asarray(logits), jnp.asarray(labels), class_weights=weights)
    np.testing.assert_allclose(weighted, -np.log(probabilities[:2]).mean(), rtol=1e-5)  # all of one class


@pytest.mark.parametrize("name", losses.SEGMENTATION)
def test_another_ignore_label(name):
    output, truth = example(name)
    expected, _ = value_and_gradient(name)(output, truth)
    other = np.where(truth == 255, -1, truth.astype(np.int32))
    loss = jax.jit(functools.partial(losses.get(name), ignore=-1))(output, other)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


# The global batch --------------------------------------------------------------------------------


def step(name, axis_name=None):
    """The loss and weight gradient of a one-layer network, as a train step takes them."""

    def run(weights, features, truth):
        def loss(weights):
            return losses.get(name)(features @ weights, truth, axis_name=axis_name)

        value, gradient = jax.value_and_grad(loss)(weights)
        return value, gradient if axis_name is None else jax.lax.pmean(gradient, axis_name)

    return run


def over_pmap(run, weights, features, truth):
    split = [x.reshape(4, -1, *x.shape[1:]) for x in (features, truth)]
    return jax.pmap(run, "data", in_axes=(None, 0, 0))(weights, *split)


def over_shard_map(run, weights, features, truth):
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    spec = PartitionSpec("data")

    def one_row(*args):
        return jax.tree.map(lambda x: x[None], run(*args))

    mapped = jax.shard_map(
        one_row,
        mesh=mesh,
        in_specs=(PartitionSpec(), spec, spec),
        out_specs=spec,
        check_vma=False,
    )
    return jax.jit(mapped)(weights, features, truth)


@pytest.mark.parametrize("mapping", [over_pmap, over_shard_map])
@pytest.mark.parametrize("name", NAMES)
def test_four_devices_give_the_loss_and_gradient_of_one(name, mapping):
    output, truth = example(name)  # the second device of four has no valid pixel
    rng = np.random.default_rng(2)
    features = rng.normal(size=(B, H, W, F)).astype(np.float32)
    weights = rng.normal(size=(F, output.shape[-1])).astype(np.float32)

    loss, gradient = jax.jit(step(name))(weights, features, truth)
    split_loss, split_gradient = mapping(step(name, "data"), weights, features, truth)

    assert split_loss.shape == (4,)
    np.testing.assert_allclose(split_loss, np.full(4, loss), rtol=1e-6)
    scale = np.abs(gradient).max()
    assert scale > 1e-3
    for device in range(4):
        np.testing.assert_allclose(split_gradient[device], gradient, rtol=0, atol=2e-6 * scale)


# Nothing to learn from ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_valid_pixel_gives_zero(name):
    output, truth = example(name)
    nothing = np.full_like(truth, 255 if name in losses.SEGMENTATION else 0)
    for junk in (0.0, -5.0, 1e30, np.inf, np.nan):
        loss, gradient = value_and_gradient(name)(np.full_like(output, junk), nothing)
        assert loss == 0
        assert not np.any(gradient)


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_prediction_is_finite(name):
    output, truth = example(name)
    if name in losses.SEGMENTATION:
        output = np.where(truth[..., None] == np.arange(C), 100, -100).astype(np.float32)
    else:
        output = truth
    loss, gradient = value_and_gradient(name)(output, truth)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, -3.0])
def test_junk_at_invalid_pixels_changes_nothing(name, junk):
    output, truth = example(name)
    clean = value_and_gradient(name)(output, truth)
    if name in losses.SEGMENTATION:
        output[truth == 255] = junk
    else:
        output[truth == 0] = truth[truth == 0] = junk
    dirty = value_and_gradient(name)(output, truth)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)


# The user's mistakes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", losses.SEGMENTATION)
@pytest.mark.parametrize("label", [C, 254])
def test_a_label_that_is_no_class_makes_every_device_notice(name, label):
    output, truth = example(name)
    truth[0, 0, 0] = label
    assert np.isnan(value_and_gradient(name)(output, truth)[0])

    def loss(weights, output, truth):
        return losses.get(name)(output + weights, truth, axis_name="data")

    assert np.isnan(over_pmap(loss, np.float32(0), output, truth)).all()


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_fit_are_refused(name):
    output, truth = example(name)
    with pytest.raises(ValueError, match="fit"):
        losses.get(name)(output, truth[:, :-1])


@pytest.mark.parametrize("name", losses.DEPTH)
def test_a_depth_map_without_its_channel_is_refused(name):
    output, truth = example(name)
    with pytest.raises(ValueError, match="fit"):
        losses.get(name)(output, truth[..., 0])


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'focal'.*cross_entropy.*silog"):
        losses.get("focal")
    with pytest.raises(ValueError, match=r"'l1': choose from cross_entropy, dice, ohem$"):
        losses.get("l1", losses.SEGMENTATION)
    assert losses.get("l1", losses.DEPTH) is losses.l1


# silog below its floor ---------------------------------------------------------------------------


def test_silog_is_smooth_at_its_floor_and_flat_nowhere():
    floor = 1e-3
    target = np.full((1, 1, 1, 1), 0.2, np.float32)
    slope = jax.jit(jax.grad(lambda p: losses.silog(p.reshape(1, 1, 1, 1), target, floor=floor)))
    below, above = (slope(np.float32(floor * x)) for x in (1 - 1e-5, 1 + 1e-5))
    np.testing.assert_allclose(below, above, rtol=1e-4)
    for prediction in (-10, -0.5, -1e-3, 0, 5e-4, 0.1):
        gradient = slope(np.float32(prediction))
        assert -1e4 < gradient < 0  # more depth, less loss


@pytest.mark.parametrize("name", losses.SEGMENTATION)
def test_debugging_nans_stops_at_wrong_labels_only(name):
    """Eagerly, where each operation is looked at: ignored pixels make no NaN on the way, a label of no class does."""
    loss = losses.get(name)
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 4, 5, C)), jnp.float32)
    labels = rng.integers(0, C, (2, 4, 5)).astype(np.uint8)
    labels[0, :2] = 255
    expected = loss(logits, jnp.asarray(labels))
    wrong = labels.copy()
    wrong[1, 2, 3] = C
    assert math.isnan(loss(logits, jnp.asarray(wrong)))
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(loss)(logits, jnp.asarray(labels))
        assert value == pytest.approx(float(expected), rel=1e-6)
        assert not np.asarray(gradient)[0, :2].any()
        assert loss(logits, jnp.full_like(labels, 255)) == 0
        with pytest.raises(FloatingPointError):
            loss(logits, jnp.asarray(wrong))


@pytest.mark.parametrize("name", losses.SEGMENTATION)
def test_other_derivatives_ignore_what_is_at_invalid_pixels_too(name):
    """Forward mode, and gradients of gradients: as with zeros there."""
    output, truth = example(name)
    invalid = (truth == 255)[..., None]
    junk, clean = (jnp.asarray(np.where(invalid, filling, output)) for filling in (np.nan, 0))
    direction = jnp.asarray(np.random.default_rng(1).normal(size=output.shape).astype(np.float32))
    loss = functools.partial(losses.get(name), labels=jnp.asarray(truth))

    def both(x):
        slope = jax.jvp(loss, (x,), (direction,))[1]
        return slope, jax.grad(lambda x: (jax.grad(loss)(x) * direction).sum())(x)

    for ours, expected in zip(jax.jit(both)(junk), jax.jit(both)(clean), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-8)
