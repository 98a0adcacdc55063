"""Segmentation and depth by the fields that they read: figures, names, colors and files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.batches import FIELDS, make_batch, make_fields
from ml_collections import ConfigDict

from configs import dwa, single_task
from mtlflax import data, experiment, losses, metrics, tasks
from mtlflax.data import units
from mtlflax.data.source import Class, Depth, Image, Labels, Number
from mtlflax.errors import UserError

FIRST = 1 / 65535  # code 1: infinitely far
MILLIMETRES = {"image": Image(), "depth": Depth(units.get("millimetres"), least=300, most=8000, dtype="uint16")}
OF_DEPTH = ["rmse", "mae", "rmse_constant", "rmse_log", "abs_rel", "sq_rel", "log10", "delta1", "delta2", "delta3"]


def evaluate(task, prediction, batch):
    batch = {"mask": np.ones(len(prediction), np.float32)} | batch
    totals = metrics.Totals()
    totals.add(jax.jit(task.sums)(prediction, batch))
    return task.metrics(totals.sums)


def test_ratios_leave_out_what_is_infinitely_far_and_errors_do_not():
    """A tenth of the truth is the code 1, where the prediction is wrong by a little: a lot of that value."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.05, 0.5, (1, 10, 20, 1)).astype(np.float32)
    prediction = truth * np.float32(1.1)
    far = np.zeros(truth.shape, bool)
    far[:, :1] = True
    with_far, guess = np.where(far, np.float32(FIRST), truth), np.where(far, np.float32(0.008), prediction)
    camera = {"focal_baseline": np.full(1, 473.575, np.float32)}
    task = tasks.depth(FIELDS)
    found = evaluate(task, guess, {"depth": with_far, **camera})
    without = evaluate(task, guess, {"depth": np.where(far, 0, truth), **camera})
    for name in ("abs_rel", "sq_rel", "rmse_log", "log10", "delta1", "delta2", "delta3"):
        assert found[name] == pytest.approx(without[name], rel=1e-5), name
    assert found["abs_rel"] == pytest.approx(0.1, rel=1e-5)
    assert found["infinite_share"] == pytest.approx(0.1, rel=1e-6)
    assert without["infinite_share"] == 0
    # What other code reports, over all measurements: dominated by the stand-in value.
    error, true = (x.astype(np.float64) for x in (guess - with_far, with_far))
    assert found["mtan_rel_err"] == pytest.approx(np.mean(np.abs(error) / true), rel=1e-4)
    assert found["mtan_rel_err"] > 50
    assert found["mtan_abs_err"] == found["mae"] == pytest.approx(np.mean(np.abs(error)), rel=1e-5)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
    assert found["rmse_constant"] == pytest.approx(np.std(true), rel=1e-4)
    assert found["rmse_constant"] > 1.1 * without["rmse_constant"]


def test_a_truth_of_nothing_but_infinity_has_errors_and_no_ratios():
    truth = np.full((1, 4, 5, 1), FIRST, np.float32)
    found = evaluate(tasks.depth(FIELDS), 2 * truth, {"depth": truth, "focal_baseline": np.full(1, 473.6, np.float32)})
    assert found["infinite_share"] == 1
    assert found["rmse"] == pytest.approx(FIRST)
    assert "abs_rel" not in found
    assert "rmse_metres" not in found


def test_depth_in_whole_millimetres():
    task = tasks.depth(MILLIMETRES)
    assert task.fields == ("depth",)
    truth = np.array([0, 299, 8001, 300, 1000, 8000], np.uint16).reshape(1, 2, 3, 1)
    prediction = np.array([5, 5, 5, 400, 900, 8100], np.float32).reshape(truth.shape)
    valid = task.valid({"depth": truth})
    assert valid.ravel().tolist() == [False, False, False, True, True, True]
    assert task.loss(prediction, {"depth": jnp.asarray(truth)}, None) == 100
    found = evaluate(task, prediction, {"depth": truth})
    assert found["rmse"] == found["mae"] == 100
    assert found["rmse_metres"] == pytest.approx(0.1, rel=1e-4)
    assert found["abs_rel"] == pytest.approx((100 / 300 + 100 / 1000 + 100 / 8000) / 3)
    assert found["abs_rel_metres"] == pytest.approx(found["abs_rel"], rel=1e-4)
    assert "infinite_share" not in found


@pytest.mark.parametrize("unit", ["metres", "millimetres", "inverse_metres", "normalised_disparity"])
def test_colors_and_files_of_a_depth(unit):
    """The same scene looks the same in every unit, and is written in metres."""
    task = tasks.depth(make_fields(unit))
    metres = np.array([[0.5, 5.0, 20.0], [80.0, 254.0, 300.0]])
    focal_baseline = 473.575
    values = {
        "metres": metres,
        "millimetres": 1000 * metres,
        "inverse_metres": 1 / metres,
        "normalised_disparity": (256 * focal_baseline / metres + 1) / 65535,
    }[unit].astype(np.float32)[..., None]
    files = task.files(values, focal_baseline)
    assert list(files) == ["depth", "depth_color", "depth_metres"]
    assert files["depth"].dtype == np.uint16
    assert files["depth"].shape == (2, 3)
    np.testing.assert_allclose(files["depth"][metres < 255], np.rint(256 * metres[metres < 255]), atol=1)
    assert files["depth"][1, 2] == 0  # beyond what 16 bits hold
    assert files["depth_metres"].dtype == np.float32
    np.testing.assert_allclose(files["depth_metres"], metres, rtol=1e-4)
    colors = task.colors(values)
    np.testing.assert_array_equal(files["depth_color"], colors)
    assert (colors.dtype, colors.shape) == (np.uint8, (2, 3, 3))
    brightness = colors.astype(int).sum(axis=-1).ravel()
    assert (np.diff(brightness) <= 0).all()
    assert (brightness[0] > 600) & (brightness[2] > brightness[3] > 0)
    expected = tasks.depth(make_fields("metres")).colors(metres.astype(np.float32)[..., None]).astype(int)
    if unit != "normalised_disparity":  # whose scale is that of the default unit's pictures, not of 5 m
        assert np.abs(colors - expected).max() <= 3
    assert not task.colors(np.zeros_like(values)).any()


def test_no_depth_and_no_metres_where_the_camera_is_unknown():
    task = tasks.depth({"image": Image(), "depth": FIELDS["depth"]})
    assert task.fields == ("depth",)
    names = task.metric_names({"image": Image(), "depth": FIELDS["depth"]})
    assert names == [*OF_DEPTH, "infinite_share", "mtan_abs_err", "mtan_rel_err"]


def test_metric_names_are_those_of_the_declared_fields():
    classes = tuple(Class(name, (i, i, i), group="thing" if i else "ground") for i, name in enumerate("abc"))
    fields = {"image": Image(), "parts": Labels(classes, ignore=-1, dtype="int16"), **MILLIMETRES}
    parts = tasks.segmentation(fields, name="parts")
    assert parts.channels == 3
    assert parts.metric_names(fields) == ["miou", "pixel_accuracy", "category_iou", "iou/a", "iou/b", "iou/c"]
    ranges = [f"mae_metres/{name}" for name in ("0-10", "10-20", "20-40", "40-80")]
    of_class = [f"class_mae_metres/{name}" for name in "abc"]
    in_metres = [f"{name}_metres" for name in OF_DEPTH]
    assert tasks.depth(fields).metric_names(fields) == OF_DEPTH + ranges + of_class + in_metres
    assert "category_iou" not in tasks.segmentation(make_fields(classes=7)).metric_names(make_fields(classes=7))


def test_the_depth_error_of_each_class():
    """Against sums over each class's pixels; classes that do not occur are left out, and so is a frame's padding."""
    task, batch = tasks.depth(make_fields("metres")), make_batch(0)
    depth = np.where(batch["depth"] > 0, 90 * batch["depth"], 0)  # some of it out of range
    batch |= {"depth": depth, "segmentation": np.where(batch["segmentation"] == 3, 4, batch["segmentation"])}
    prediction = np.random.default_rng(1).uniform(0.5, 60, depth.shape).astype(np.float32)
    assert task.fields == ("depth",)
    assert task.scored_by == ("segmentation",)
    batch["mask"] = np.array([1, 1, 1, 1, 0, 1, 1, 1], np.float32)
    found = evaluate(task, prediction, batch)
    frames = np.delete(np.arange(8), 4)
    of_class, true, guess = (x[frames].ravel() for x in (batch["segmentation"], depth, prediction))
    names = FIELDS["segmentation"].names
    assert "class_mae_metres/wall" not in found
    for number, name in enumerate(names):
        pixels = (of_class == number) & (true > 0) & (true <= 80)
        if number != 3:
            expected = np.abs(guess.astype(np.float64) - true)[pixels].mean()
            assert found[f"class_mae_metres/{name}"] == pytest.approx(expected, rel=1e-5)
    # What is kept of each frame gives the same.
    sums = jax.device_get(jax.jit(task.sums)(prediction, batch))
    rows = {key: x[None].astype(np.float64) for key, x in sums.items()}
    kept = {key: x.sum(axis=0) for key, x in task.condense(rows).items()}
    assert task.metrics(kept) == pytest.approx(found)
    # Without labels the rest is as before.
    unlabeled = evaluate(task, prediction, {k: v for k, v in batch.items() if k != "segmentation"})
    assert unlabeled == {k: v for k, v in found.items() if not k.startswith("class_")}


def test_labels_are_read_with_a_single_depth_in_evaluation_alone():
    built = experiment.build(single_task.get_config("depth,quick"))
    assert list(built.batch_fields) == ["image", "depth", "focal_baseline"]
    assert list(built.evaluation_fields) == ["image", "depth", "focal_baseline", "segmentation"]
    val = built.evaluated["val"]
    val.fields = {name: field for name, field in val.fields.items() if name != "segmentation"}
    assert list(built.evaluation_fields) == ["image", "depth", "focal_baseline"]


def test_class_weights_are_those_of_the_classes():
    """By name, in any order, of a file that a config names; the loss is that with the weights in a row."""
    names = FIELDS["segmentation"].names
    weights = {name: 1.0 + i for i, name in reversed(list(enumerate(names)))}
    batch = make_batch(0)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(*batch["segmentation"].shape, 19)), jnp.float32)
    for loss in ("cross_entropy", "ohem"):
        task = tasks.segmentation(FIELDS, loss=loss, class_weights=weights)
        expected = losses.get(loss)(logits, batch["segmentation"], class_weights=np.arange(1.0, 20))
        assert task.loss(logits, batch, None) == expected
    for wrong, message in (
        (weights | {"moon": 1.0}, "'moon' is no class"),
        ({"road": 1.0}, "has no weight: give one to each"),
        (weights | {"sky": -1.0}, "give numbers of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            tasks.segmentation(FIELDS, class_weights=wrong)
    with pytest.raises(ValueError, match="dice counts all classes alike"):
        tasks.segmentation(FIELDS, loss="dice", class_weights=weights)


def test_class_weights_from_a_file(tmp_path):
    config = dwa.get_config("quick")
    config.losses.segmentation = "cross_entropy"
    config.losses.class_weights = str(tmp_path / "w.json")
    with pytest.raises(UserError, match=r"w\.json: cannot be read"):
        experiment.build(config)
    (tmp_path / "w.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"losses\.class_weights: .*w\.json: is no JSON object of numbers"):
        experiment.build(config)
    (tmp_path / "w.json").write_text(json.dumps(dict.fromkeys(FIELDS["segmentation"].names, 2)))
    built = experiment.build(config)
    assert built.config.losses.class_weights[0] == ("road", 2.0)
    (tmp_path / "w.json").unlink()
    again = ConfigDict(json.loads(built.config.to_json()))  # as a run has recorded it
    assert experiment.build(again).tasks[0].name == "segmentation"


def test_errors_are_red():
    truth = np.array([[0, 1, 255]], np.uint8)
    drawn = tasks.segmentation(FIELDS).errors(truth, np.array([[0, 2, 3]], np.uint8))
    assert drawn.tolist() == [[[225, 225, 225], [200, 20, 20], [0, 0, 0]]]
    task = tasks.depth(FIELDS)
    truth = np.array([0.2, 0.2, 0.2, FIRST, 0], np.float32).reshape(1, 5, 1)
    drawn = task.errors(truth, np.array([0.2, 0.25, np.nan, 0.2, 0.2], np.float32).reshape(1, 5, 1))
    assert drawn.tolist() == [[[225, 225, 225], [212, 122, 122], [200, 20, 20], [0, 0, 0], [0, 0, 0]]]


def test_classes_of_a_field_of_ones_own():
    """Three classes in 16 bits, with another ignore value, from a field of another name."""
    classes = tuple(Class(name, (60 * i, 0, 1)) for i, name in enumerate("abc"))
    fields = {"parts": Labels(classes, ignore=-1, dtype="int16")}
    task = tasks.segmentation(fields, name="parts")
    truth = np.array([[[0, 1], [2, -1]]], np.int16)
    logits = np.zeros((1, 2, 2, 3), np.float32)
    logits[0, 0, :, 0] = logits[0, 1, :, 2] = 9  # the classes 0 0 / 2 2
    assert task.valid({"parts": truth}).tolist() == [[[True, True], [True, False]]]
    found = evaluate(task, logits, {"parts": truth})
    assert found == {
        "miou": pytest.approx((0.5 + 0 + 1) / 3),
        "pixel_accuracy": pytest.approx(2 / 3),
        "iou/a": 0.5,
        "iou/b": 0.0,
        "iou/c": 1.0,
    }
    files = task.files(logits[0], 0.0)
    assert list(files) == ["parts", "parts_ids"]
    assert files["parts_ids"].tolist() == [[0, 0], [2, 2]]
    assert files["parts"].tolist() == [[[0, 0, 1]] * 2, [[120, 0, 1]] * 2]
    wide = tasks.segmentation({"parts": Labels(classes, ignore=-1, dtype="int32")}, name="parts")
    np.testing.assert_array_equal(wide.colors(truth[0].astype(np.int32)), task.colors(truth[0]))
    np.testing.assert_array_equal(task.colors(truth[0]), [[[0, 0, 1], [60, 0, 1]], [[120, 0, 1], [0, 0, 0]]])


@pytest.mark.parametrize("task", [tasks.segmentation(FIELDS), tasks.depth(FIELDS)], ids=lambda task: task.name)
def test_valid_is_where_the_loss_looks(task):
    batch = make_batch(0)
    valid = np.asarray(task.valid(batch))
    assert valid.shape == batch[task.name].shape
    assert valid.any(axis=tuple(range(1, valid.ndim))).tolist() == [True] * 6 + [False] * 2
    output = jnp.zeros((*batch["image"].shape[:3], task.channels))
    gradient = np.asarray(jax.grad(lambda y: task.loss(task.activation(y), batch, None))(output))
    np.testing.assert_array_equal((gradient != 0).any(axis=-1), valid.reshape(gradient.shape[:-1]))


def brightness(config, fields):
    """A task whose truth is the picture itself."""
    del config, fields

    def error(prediction, batch):
        values = jnp.abs(prediction - batch["image"].astype(jnp.float32) / 255).mean(axis=-1)
        return values, jnp.ones(values.shape, bool)

    return tasks.dense(
        "brightness",
        3,
        fields=(),
        loss=error,
        metrics={"error": error},
        truth=lambda batch: batch["image"],
        colors=lambda image: image.astype(np.uint8),
    )


def test_a_task_may_read_the_image():
    config = dwa.get_config("quick")
    config.tasks = ("depth", f"{__name__}:brightness")
    config.best.metric, config.best.mode = "val/brightness/error", "min"
    built = experiment.build(config)
    assert list(built.batch_fields) == ["image", "depth", "focal_baseline"]
    task = built.tasks[1]
    assert task.metric_names(built.fields) == ["error"]
    batch = make_batch(0)
    perfect = batch["image"].astype(np.float32) / 255
    assert evaluate(task, perfect + np.float32(0.25), batch) == {"error": pytest.approx(0.25, rel=1e-5)}
    assert np.asarray(task.valid(batch)).all()


def test_building_renders_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path))
    monkeypatch.setattr("mtlflax.data.streets.frame.make", lambda *_: pytest.fail("a frame was rendered"))
    built = experiment.build(dwa.get_config("quick"))
    assert (len(built.training), len(built.evaluated["val"])) == (400, 100)
    assert built.facts["num_train"] == 400
    assert not any(tmp_path.iterdir())


def test_a_field_that_is_of_another_kind_or_not_there():
    with pytest.raises(ValueError, match="needs a depth"):
        tasks.depth(FIELDS, name="segmentation")
    with pytest.raises(ValueError, match="label map with at least two classes"):
        tasks.segmentation(FIELDS, name="depth")
    with pytest.raises(ValueError, match="label map with at least two classes"):
        tasks.segmentation({"ids": Labels()}, name="ids")
    config = dwa.get_config("quick")
    config.tasks = ("depth",)
    with pytest.raises(UserError, match=r"task depth reads the field 'depth', .* lacks: it declares image, focal"):
        tasks.from_config(config, {"image": Image(), "focal_baseline": Number()})


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (
            {"segmentation": 255},
            "segmentation has nothing to learn from: none of 2 training frames has",
        ),
        (
            {"depth": 0},
            "depth has nothing to learn from: none of 2 training frames has",
        ),
    ],
)
def test_built_in_tasks_without_truth_are_found(truth, message):
    batch = make_batch(0, count=4)
    frames = [{key: value[i] for key, value in batch.items() if key != "mask"} for i in range(2)]
    frames = [frame | {k: np.full_like(frame[k], v) for k, v in truth.items()} for frame in frames]
    reads = {task.name: task.fields for task in (tasks.segmentation(FIELDS), tasks.depth(FIELDS))}
    source = Frames(frames)
    with pytest.raises(UserError, match=message):
        data.check_truth(source, reads)


class Frames(list):
    """A list of samples, as a source."""

    fields = FIELDS
