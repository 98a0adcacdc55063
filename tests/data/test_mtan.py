"""MTAN's preprocessed arrays."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import mtan_protocol
from mtlflax import data, metrics, tasks
from mtlflax.data.mtan import MTANCityscapes
from mtlflax.data.samples import Checked
from mtlflax.errors import UserError

pytestmark = pytest.mark.quick

SIZE = (8, 16)


def arrays(seed, classes=7):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 32258, (*SIZE, 1))
    codes[0], codes[1] = 0, 1
    return {
        "image": (rng.integers(0, 256, (*SIZE, 3)) / 255).astype(np.float32),
        "label": rng.integers(-1, classes, SIZE).astype(np.float32),
        "depth": (codes / 65535).astype(np.float32),
    }


def write(root, counts=(3, 2), classes=7):
    for split, count in zip(("train", "val"), counts, strict=True):
        for i in range(count):
            for folder, values in arrays(i, classes).items():
                (root / split / folder).mkdir(parents=True, exist_ok=True)
                np.save(root / split / folder / f"{i}.npy", values)
    return root


@pytest.mark.parametrize("classes", [7, 19])
def test_what_is_stored(tmp_path, classes):
    write(tmp_path, classes=classes)
    source = MTANCityscapes(tmp_path, "train", classes=classes)
    assert source.names == ["0", "1", "2"]
    for i in range(3):
        sample, stored = Checked(source, source.fields)[i], arrays(i, classes)
        np.testing.assert_array_equal(sample["image"], np.rint(stored["image"] * 255))
        np.testing.assert_array_equal(sample["depth"], stored["depth"])
        known = stored["label"] >= 0
        np.testing.assert_array_equal(sample["segmentation"][known], stored["label"][known])
        assert (sample["segmentation"][~known] == 255).all()


def test_it_is_named_in_a_config(tmp_path):
    write(tmp_path, counts=(11, 2))
    config = ConfigDict({"name": "mtan", "root": str(tmp_path), "size": (4, 8), "classes": 7, "validation": "val"})
    training, evaluated = data.open_splits(config)
    assert training.names == [str(n) for n in range(11)]  # not 0, 1, 10, 2
    assert {key: np.shape(value) for key, value in evaluated["val"][0].items()} == {
        "image": (4, 8, 3),
        "segmentation": (4, 8),
        "depth": (4, 8, 1),
        "name": (),
    }
    with pytest.raises(UserError, match="give the folder that holds train and val"):
        data.open_source("mtan", ConfigDict({"root": ""}), "train")


def test_its_protocol(tmp_path):
    write(tmp_path, counts=(65, 2))
    config = mtan_protocol.get_config("cagrad")
    config.data.root, config.data.size, config.model.pretrained = str(tmp_path), SIZE, ""
    config.model.name = "deeplabv3plus"
    training, _ = data.open_splits(config.data)
    assert len(training.fields["segmentation"].classes) == 7
    for argument in ("", "quick,cagrad", "cagrad,famo"):
        with pytest.raises(UserError, match="give one method"):
            mtan_protocol.get_config(argument)


def test_the_scores_of_that_line_of_work(tmp_path):
    """Against their formulas: means over all values that are not 0, those that are infinitely far included."""
    write(tmp_path)
    source = MTANCityscapes(tmp_path, "train")
    task = tasks.depth(source.fields)
    truth = np.stack([source[i]["depth"] for i in range(3)])
    prediction = truth + np.random.default_rng(9).normal(0, 0.02, truth.shape).astype(np.float32)
    totals = metrics.Totals()
    totals.add(task.sums(prediction, {"depth": truth, "mask": np.ones(3, np.float32)}))
    found = task.metrics(totals.sums)
    there = truth != 0
    error, true = np.abs(prediction[there].astype(np.float64) - truth[there]), truth[there].astype(np.float64)
    assert found["mtan_abs_err"] == pytest.approx(error.mean(), rel=1e-5)
    assert found["mtan_rel_err"] == pytest.approx((error / true).mean(), rel=1e-4)
    assert not [name for name in found if "metres" in name]


@pytest.mark.parametrize(
    ("folder", "values", "message"),
    [
        ("image", np.zeros(SIZE), r"is no image \[H, W, 3\] of numbers from 0 to 1"),
        ("image", np.full((*SIZE, 3), 255.0), "is no image"),
        ("image", np.full((*SIZE, 3), np.nan), "is no image"),
        ("label", np.full(SIZE, 7), "holds 7, which is neither −1 nor a class below 7: see config.data.classes"),
        ("label", np.full(SIZE, 0.5), "holds 0.5"),
        ("label", np.zeros((4, 4)), r"is \[4, 4\], but its image is \[8, 16\]"),
        ("depth", np.full((*SIZE, 1), 20.0), "is no disparity / 65535"),
        ("depth", np.full((*SIZE, 1), np.nan), "is no disparity / 65535"),
    ],
)
def test_what_is_something_else(tmp_path, folder, values, message):
    write(tmp_path)
    np.save(tmp_path / "train" / folder / "1.npy", values)
    source = MTANCityscapes(tmp_path, "train")
    source[0]
    with pytest.raises(UserError, match=rf"{folder}/1\.npy: {message}"):
        source[1]


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"image: there is no such folder: give the folder that holds train and val"):
        MTANCityscapes(tmp_path, "train")
    write(tmp_path)
    (tmp_path / "train" / "depth" / "2.npy").unlink()
    with pytest.raises(UserError, match=r"depth/2\.npy: is missing \(1 files in all\)"):
        MTANCityscapes(tmp_path, "train")
    (tmp_path / "train" / "image" / "2.npy").unlink()
    with pytest.raises(UserError, match=r"image/2\.npy: is missing"):  # its label is there
        MTANCityscapes(tmp_path, "train")
    with pytest.raises(ValueError, match="classes is 5"):
        MTANCityscapes(tmp_path, "val", classes=5)
