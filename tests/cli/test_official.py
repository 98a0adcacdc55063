"""Evaluation at full size, and predictions in the official format, which Cityscapes' own evaluator scores as we do."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
from helpers import official_evaluator
from helpers.commands import call, flags, history, results
from helpers.trees import write_tree

from mtlflax import predict
from mtlflax.data import labels
from mtlflax.run import predictor

FULL = "--config.evaluate.size=full"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Frames of twice the size that the network sees, not all of which is labeled."""
    root = write_tree(tmp_path_factory.mktemp("cityscapes"), size=(64, 128))
    for path in root.glob("gtFine/*/*/*_labelIds.png"):
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        ids[-5:], ids[:3, :50] = 1, 9  # the car's bonnet; parking
        assert cv2.imwrite(str(path), ids)
        instances = path.with_name(path.name.replace("labelIds", "instanceIds"))
        assert cv2.imwrite(str(instances), np.where(ids == 26, 26000, ids).astype(np.uint16))
    return root


@pytest.fixture(scope="module")
def trained(tree, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    call(flags(tree, workdir, "--config.epochs=3", "--config.best.from_epoch=0"))
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def evaluate(workdir, *more, code=0):
    return call([f"--workdir={workdir}", "--mode=evaluate", *more], code=code)


def read(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_the_official_evaluator_says_what_our_metrics_say_at_full_size(tree, workdir, tmp_path, parallel):
    if parallel == "pmap":  # the run's own mapping cannot be changed
        content = json.loads((workdir / "config.json").read_text())
        content["config"]["parallel"] = parallel
        (workdir / "config.json").write_text(json.dumps(content))
    before = results(workdir)
    output = evaluate(workdir, FULL, f"--config.evaluate.export={tmp_path / 'out'}", "--config.batch_size=3")
    assert "scored at 64×128" in output
    assert "predictions for 5 frames in" in output
    found = results(workdir)
    assert (before["size"], found["size"]) == ([32, 64], [64, 128])
    assert found["val/segmentation/miou"] != before["val/segmentation/miou"]
    written = read(tmp_path / "out")
    assert list(written) == [f"aachen_{i:06}_000019_pred_labelIds.png" for i in range(5)]

    official = official_evaluator.evaluate(tree, tmp_path / "out", tmp_path)
    assert np.sum(official["confMatrix"]) == 5 * 64 * 128
    assert abs(found["val/segmentation/miou"] - official["averageScoreClasses"]) < 1e-6
    ours = {name: found.get(f"val/segmentation/iou/{name}", np.nan) for name in labels.TRAIN_NAMES}
    assert sum(np.isfinite(list(ours.values()))) >= 3
    theirs = {name: official["classScores"][name] for name in labels.TRAIN_NAMES}
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=0, atol=1e-6)

    # The network sees the same at either size of evaluation, and what is written does not depend on it.
    trained_size = evaluate(workdir, f"--config.evaluate.export={tmp_path / 'again'}", "--config.batch_size=3")
    assert "scored at 32×64" in trained_size
    assert read(tmp_path / "again") == written


def test_depth_at_full_size_is_that_of_the_enlarged_prediction(tree, workdir):
    """Against OpenCV and the files themselves, in float64."""
    evaluate(workdir, FULL)
    found, run = results(workdir), predict.load(workdir)
    network, errors = predictor.make_predict(run), []
    for path in sorted(tree.glob("disparity/val/*/*.png")):
        codes = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        name = path.name.replace("disparity", "leftImg8bit")
        picture = cv2.imread(str(tree / "leftImg8bit" / "val" / path.parent.name / name))[..., ::-1]
        small = cv2.resize(picture, (64, 32), interpolation=cv2.INTER_AREA)
        values = np.asarray(network(small[None])["depth"][0])
        errors.append((cv2.resize(values, (128, 64)) - codes / 65535.0)[codes > 0])
    assert found["val/depth/rmse"] == pytest.approx(np.sqrt(np.mean(np.concatenate(errors) ** 2)), rel=1e-4)


def test_predict_writes_the_files_of_evaluation(tree, workdir, tmp_path, capsys):
    evaluate(workdir, f"--config.evaluate.export={tmp_path / 'evaluated'}")
    for images in (tree / "leftImg8bit" / "val", tree / "leftImg8bit" / "val" / "*" / "*.png"):
        arguments = ["--official", f"--workdir={workdir}", f"--images={images}", f"--out={tmp_path / 'out'}"]
        assert predict.main(arguments) == 0
        assert "5 pictures done, 0 skipped" in capsys.readouterr().out
        assert read(tmp_path / "out") == read(tmp_path / "evaluated")
    test = shutil.copytree(tree / "leftImg8bit" / "val", tmp_path / "leftImg8bit" / "test")
    (test / "aachen" / "._aachen_000000_000019_leftImg8bit.png").write_bytes(b"\0")  # what macOS leaves
    call([*arguments[:2], f"--images={test.parent}", f"--out={tmp_path / 'test'}"], predict.main)
    assert read(tmp_path / "test") == read(tmp_path / "evaluated")


def test_mistakes_about_the_official_format(tree, workdir, tmp_path):
    out, export = tmp_path / "out", f"--config.evaluate.export={tmp_path / 'out'}"
    (out / "maps").mkdir(parents=True)
    (out / "maps" / "aachen_000001_000019_leftImg8bit_depth.png").write_bytes(b"")
    message = evaluate(workdir, export, code=1)
    assert re.search(r"out holds maps/aachen_000001_000019_leftImg8bit_depth\.png, which the official", message)
    arguments = ["--official", f"--workdir={workdir}", f"--out={out}"]
    assert "holds maps/" in call([*arguments, f"--images={tree}/leftImg8bit/val"], predict.main, code=1)
    assert "no pictures CITY_SEQUENCE_FRAME_leftImg8bit.png" in call(
        [*arguments, f"--images={tree}/gtFine"], predict.main, code=1
    )
    assert "are of one frame" in call([*arguments, f"--images={tree}/leftImg8bit"], predict.main, code=1)
    assert "evaluate.export is for --mode=evaluate" in call(flags(tree, tmp_path / "new", export), code=1)
    assert "19 train classes" in call(flags(tree, tmp_path / "new", export, "--config.data.classes=7"), code=1)
    assert "evaluate.size is 'half': choose trained or full" in evaluate(workdir, "--config.evaluate.size=half", code=1)
    streets = [flag for flag in flags(tree, tmp_path / "new", FULL) if "data.root" not in flag]
    assert "its truth at data.size alone" in call([*streets, "--config.data.name=streets"], code=1)
    resumed = call(flags(tree, workdir, FULL, "--config.epochs=3", "--config.best.from_epoch=0"), code=1)
    assert "evaluate.size: 'trained' there, 'full' here" in resumed


def test_a_run_is_evaluated_at_full_size_while_it_is_trained(tree, tmp_path):
    """With the best epoch chosen on frames held out, and pictures at the images' size."""
    extra = ["--config.data.validation=holdout", "--config.data.holdout=0.25", "--config.epochs=2", FULL]
    output = call(flags(tree, tmp_path / "run", *extra, "--config.best.from_epoch=0"))
    assert "step 4 at 64×128: holdout/segmentation/miou" in output
    assert "scored at 64×128" in output
    assert results(tmp_path / "run")["size"] == [64, 128]
    assert sum("holdout/depth/rmse" in line for line in history(tmp_path / "run")) == 2
    picture = cv2.imread(str(tmp_path / "run" / "pictures" / "holdout_0000004.png"))
    assert picture.shape == (3 * 36 + 4, 7 * 68 + 4, 3)


def test_a_data_set_of_one_size_is_exported_at_that_size(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    run = [flag for flag in flags(tmp_path, tmp_path / "run", "--config.data.name=streets") if "data.root" not in flag]
    few = ["--config.data.streets.train=4", "--config.data.streets.val=2"]
    call([*run, *few, "--config.epochs=1", "--config.best.from_epoch=0"])
    evaluate(tmp_path / "run", f"--config.evaluate.export={tmp_path / 'out'}")
    written = {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == [f"streets-val_{i:06}_000019_pred_labelIds.png" for i in range(2)]
    for pixels in written.values():
        assert pixels.shape == (32, 64)
        assert np.isin(pixels, labels.LABEL_ID_LUT[:19]).all()
