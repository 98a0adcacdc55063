"""Metrics against float64 loops over all pixels of a set, with holes in the truth."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.batches import make_fields

from mtlflax import metrics, tasks
from mtlflax.data import units

# Segmentation -----------------------------------------------------------------------------------


def test_confusion_matrix_counts_pairs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, (3, 10, 11)).astype(np.uint8)  # 5 and 6 are no classes
    labels[rng.random(labels.shape) < 0.3] = 255
    predictions = rng.integers(-1, 6, labels.shape)
    expected = np.zeros((5, 5), int)
    for truth, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if truth < 5 and 0 <= prediction < 5:
            expected[truth, prediction] += 1

    confusion = jax.jit(metrics.confusion_matrix, static_argnums=2)(labels, predictions, 5)
    assert confusion.dtype == jnp.int32
    np.testing.assert_array_equal(confusion, expected)


def test_confusion_matrix_ignores_another_label():
    labels, predictions = jnp.asarray([[0, 1, 1]]), jnp.asarray([[0, 0, 1]])
    confusion = metrics.confusion_matrix(labels, predictions, 2, ignore=0)
    np.testing.assert_array_equal(confusion, [[0, 0], [1, 1]])


def test_confusion_matrix_refuses_other_shapes():
    with pytest.raises(ValueError, match="do not fit"):
        metrics.confusion_matrix(jnp.zeros((2, 4, 4), int), jnp.zeros((2, 4, 5), int), 3)


# Rows are truth. Class 2 is absent, class 3 only predicted.
CONFUSION = np.array([[6, 2, 0, 1], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_iou_by_hand():
    np.testing.assert_allclose(metrics.iou(CONFUSION), [6 / 12, 4 / 9, np.nan, 0])
    assert metrics.miou(CONFUSION) == pytest.approx((6 / 12 + 4 / 9) / 3)
    assert metrics.pixel_accuracy(CONFUSION) == 10 / 16


def test_category_iou_merges_classes():
    merged = metrics.category_iou(CONFUSION, np.array([0, 0, 2, 1], np.uint8))
    np.testing.assert_allclose(merged, [15 / 16, 0, np.nan])


def test_nothing_labelled_has_no_score():
    nothing = np.zeros((3, 3), int)
    assert math.isnan(metrics.miou(nothing))
    assert math.isnan(metrics.pixel_accuracy(nothing))


# Depth ------------------------------------------------------------------------------------------

B, H, W = 4, 12, 17
CAMERAS = np.array([473.575, 503.862, 0, 473.575], np.float32)  # the third is unknown


def task(unit):
    return tasks.depth(make_fields(unit))


@functools.partial(jax.jit, static_argnames="unit")
def depth_sums(prediction, truth, camera, unit):
    """The sums of the depth task, in its unit and in metres."""
    batch = {"depth": truth, "focal_baseline": camera, "mask": jnp.ones(len(truth))}
    return task(unit).sums(prediction, batch)


def example(unit, seed=0):
    """Prediction and truth [B, H, W, 1] from disparity codes, 0 and 1 included."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(257, 32258, (B, H, W, 1)).astype(np.uint16)
    codes[rng.random(codes.shape) < 0.4] //= 16
    codes[rng.random(codes.shape) < 0.05] = 1
    codes[(codes > 1) & (codes < 257)] = 257
    codes[rng.random(codes.shape) < 0.2] = 0
    cameras = np.where(CAMERAS == 0, np.float32(400), CAMERAS)
    truth = np.stack([units.codes_to_unit(*frame, unit) for frame in zip(codes, cameras, strict=True)])
    spread = truth[truth > 0].std()
    prediction = truth * rng.uniform(0.6, 1.5, truth.shape)
    prediction += 0.1 * spread * rng.normal(size=truth.shape)
    prediction[rng.random(truth.shape) < 0.03] *= -1
    return prediction.astype(np.float32), truth


def to_metres(value, camera, unit):
    if unit in ("metres", "millimetres"):
        return value if unit == "metres" else value / 1000
    if unit == "inverse_metres":
        return 1 / value if value > 0 else math.inf
    disparity = (value * 65535 - 1) / 256 if unit == "normalised_disparity" else value
    # Code 1 as float32 over 65535 is no exact 0 any more, and still infinitely far.
    return camera / disparity if disparity > 1e-6 else math.inf


def figures(pairs, comparable=None):
    """Every figure of (prediction, truth) pairs, as the papers define them; ratios and logs of the comparable ones."""
    p, t = np.array(pairs, np.float64).T
    of_all = {"rmse": np.sqrt(np.mean((p - t) ** 2)), "mae": np.mean(abs(p - t)), "rmse_constant": np.std(t)}
    p, t = np.array(pairs if comparable is None else comparable, np.float64).T
    positive = np.maximum(p, 1 / 65535)
    ratio = np.array([max(a / b, b / a) for a, b in zip(positive, t, strict=True)])
    return of_all | {
        "abs_rel": np.mean(abs(p - t) / t),
        "sq_rel": np.mean((p - t) ** 2 / t),
        "rmse_log": np.sqrt(np.mean((np.log(positive) - np.log(t)) ** 2)),
        "log10": np.mean(abs(np.log10(positive) - np.log10(t))),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
    }


def reference(prediction, truth, unit):
    trained, metric = [], []
    for image in range(B):
        camera = float(CAMERAS[image])
        for p, t in zip(prediction[image].ravel(), truth[image].ravel(), strict=True):
            if t <= 0:
                continue
            trained.append((p, t))
            if camera > 0 or "disparity" not in unit:
                metres = to_metres(float(t), camera, unit)
                if 1e-3 <= metres <= 80:
                    guess = min(max(to_metres(float(p), camera, unit), 1e-3), 80)
                    metric.append((guess, metres))
    assert 0 < len(metric) < len(trained)
    in_metres = {f"{k}_metres": v for k, v in figures(metric).items()}
    for near, far in ((0, 10), (10, 20), (20, 40), (40, 80)):
        if errors := [abs(p - t) for p, t in metric if near < t <= far]:
            in_metres[f"mae_metres/{near}-{far}"] = np.mean(errors)
    if unit != "normalised_disparity":
        return figures(trained) | in_metres
    finite = [(p, t) for p, t in trained if t > 1.5 / 65535]
    errors, truths = (np.array(x, np.float64) for x in ([p - t for p, t in trained], [t for _, t in trained]))
    return (
        figures(trained, finite)
        | in_metres
        | {
            "infinite_share": 1 - len(finite) / len(trained),
            "mtan_abs_err": np.mean(abs(errors)),
            "mtan_rel_err": np.mean(abs(errors) / truths),
        }
    )


def evaluate(batches, unit):
    totals = metrics.Totals()
    for prediction, truth, camera in batches:
        totals.add(depth_sums(prediction, truth, camera, unit=unit))
    return task(unit).metrics(totals.sums)


@pytest.mark.parametrize("unit", units.UNITS)
def test_depth_figures_are_the_papers(unit):
    prediction, truth = example(unit)
    batches = [(prediction[i : i + 2], truth[i : i + 2], CAMERAS[i : i + 2]) for i in (0, 2)]
    result = evaluate(batches, unit)
    expected = reference(prediction, truth, unit)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert type(result[name]) is float
        np.testing.assert_allclose(result[name], value, rtol=2e-6, err_msg=name)


def test_sums_are_by_row_and_counts_are_integers():
    prediction, truth = example("disparity")
    sums = depth_sums(prediction, truth, CAMERAS, unit="disparity")
    for name, rows in sums.items():
        assert rows.shape == (H,)
        integer = name.startswith(("count", "comparable", "delta"))
        assert rows.dtype == (jnp.int32 if integer else jnp.float32), name
    np.testing.assert_array_equal(sums["count"], (truth > 0).sum((0, 2, 3)))


@pytest.mark.parametrize("junk", [np.nan, np.inf, 0.0])
def test_padding_and_junk_leave_no_trace(junk):
    prediction, truth = example("normalised_disparity")
    clean = depth_sums(prediction, truth, CAMERAS, unit="normalised_disparity")
    prediction = np.where(truth > 0, prediction, junk)
    prediction = np.concatenate([prediction, np.full_like(prediction[:1], junk)])
    truth = np.concatenate([np.where(truth > 0, truth, junk), np.zeros_like(truth[:1])])
    cameras = np.append(CAMERAS, np.float32(473))
    padded = depth_sums(prediction, truth, cameras, unit="normalised_disparity")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), padded, clean)


def test_a_ratio_of_just_the_threshold_is_outside():
    truth = np.ones((1, 2, 2, 1), np.float32)
    prediction = np.array([1.25, 0.8, 1.2, 1.5625], np.float32).reshape(truth.shape)
    prediction[0, 0, 1] = np.nextafter(np.float32(0.8), np.float32(0))  # 0.8 itself rounds up
    result = evaluate([(prediction, truth, np.zeros(1, np.float32))], "disparity")
    assert (result["delta1"], result["delta2"], result["delta3"]) == (0.25, 0.75, 1)


def test_figures_without_a_pixel_are_left_out():
    prediction, truth = example("normalised_disparity")
    unknown = np.zeros_like(CAMERAS)
    without_camera = evaluate([(prediction, truth, unknown)], "normalised_disparity")
    assert {"rmse", "delta1", "rmse_constant"} <= without_camera.keys()
    assert not [name for name in without_camera if name.endswith("_metres")]
    # Metres and their inverse need no camera.
    assert "rmse_metres" in evaluate([(prediction, truth, unknown)], "inverse_metres")
    assert evaluate([(prediction, 0 * truth, CAMERAS)], "metres") == {}
    json.dumps(without_camera, allow_nan=False)


def test_a_predicted_nan_is_not_hidden():
    prediction, truth = example("metres")
    prediction[tuple(np.argwhere(truth > 0)[0])] = np.nan
    result = evaluate([(prediction, truth, CAMERAS)], "metres")
    assert math.isnan(result["rmse"])
    assert math.isfinite(result["rmse_constant"])


def test_a_constant_truth_needs_no_better_constant():
    truth = np.full((1, 8, 9, 1), 0.1, np.float32)
    result = evaluate([(truth, truth, np.zeros(1, np.float32))], "metres")
    assert result["rmse_constant"] < 1e-4
    assert result["rmse"] == 0


def test_depth_sums_refuse_other_shapes():
    prediction, truth = example("metres")
    with pytest.raises(ValueError, match="does not fit"):
        metrics.depth_sums(prediction[..., 0], truth, truth > 0, truth > 0)


# Totals -----------------------------------------------------------------------------------------


def test_totals_do_not_depend_on_order():
    batches = []
    for seed in range(6):
        prediction, truth = example("metres", seed)
        batches.append(jax.device_get(depth_sums(prediction, truth, CAMERAS, unit="metres")))
    forward, backward = metrics.Totals(), metrics.Totals()
    for i, batch in enumerate(batches):
        forward.add(batch)
        backward.add(batches[-1 - i])
    jax.tree.map(np.testing.assert_array_equal, forward.sums, backward.sums)
    exact = math.fsum(float(x) for batch in batches for x in batch["squared"])
    assert float(forward.sums["squared"].sum()) == pytest.approx(exact, rel=1e-15)


def test_totals_outgrow_int32():
    totals = metrics.Totals()
    assert totals.sums is None
    for _ in range(3):
        totals.add({"count": jnp.asarray(2**31 - 1, jnp.int32)})
    assert totals.sums["count"] == 3 * (2**31 - 1)
