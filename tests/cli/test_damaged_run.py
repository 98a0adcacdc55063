"""A run whose newest checkpoint is damaged: resumed before it, evaluated and predicted with without it."""

import json
import shutil

import cv2
import jax
import numpy as np
import pytest
from helpers.trees import write_tree

from configs import dwa
from mtlflax import predict, train
from mtlflax.errors import UserError
from mtlflax.run import predictor


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A configuration and a run of it: 9 steps, checkpoints after 6 (which is the best) and 9."""
    folder = tmp_path_factory.mktemp("damaged")
    config = dwa.get_config("quick")
    config.data.name, config.data.root = "cityscapes", str(write_tree(folder / "tree"))
    config.update(batch_size=4, epochs=3.0, pictures=0)
    config.data.size = (32, 64)
    config.model.name = "helpers.tiny:tiny"
    config.best.from_epoch = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_score", lambda experiment, step, results: -step)  # so that an earlier one is the best
        results = train.train_and_evaluate(config, folder / "run")
        yield config, folder / "run", results


def damage(workdir, steps):
    for step in steps:
        for path in (workdir / "checkpoints" / str(step) / "state").rglob("d/*"):  # the values of the arrays
            path.write_bytes(path.read_bytes()[:100])


def steps(workdir):
    return sorted((p.name for p in (workdir / "checkpoints").iterdir()), key=lambda name: (len(name), name))


def test_training_resumes_before_it_to_the_same_bits(whole, tmp_path, capsys):
    config, workdir, results = whole
    run = tmp_path / "run"
    shutil.copytree(workdir, run)
    expected = predictor.load(run).variables
    damage(run, [9])
    assert train.train_and_evaluate(config, run) == results
    notes = [line for line in capsys.readouterr().out.splitlines() if "is damaged" in line]
    assert len(notes) == 1
    assert f"set aside as {run}/checkpoints/9.damaged, resuming from step 6" in notes[0]
    assert {"9", "9.damaged"} <= set(steps(run))
    jax.tree.map(np.testing.assert_array_equal, predictor.load(run).variables, expected)


def test_evaluation_and_prediction_use_another(whole, tmp_path, capsys):
    config, workdir, _ = whole
    run = tmp_path / "run"
    shutil.copytree(workdir, run)
    best = predictor.load(run).step
    damage(run, [best])
    before = steps(run)
    train.evaluate_checkpoint(config, run)
    other = json.loads((run / "results.json").read_text())["step"]
    assert other != best
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.zeros((40, 80, 3), np.uint8))
    assert predict.main([f"--workdir={run}", f"--images={picture}", f"--out={tmp_path}/maps"]) == 0
    assert capsys.readouterr().out.count(f"checkpoints/{best} is damaged") == 2
    assert predictor.load(run).step == other
    assert steps(run) == before


def test_a_best_one_without_its_score_is_said(whole, tmp_path, capsys):
    _, workdir, _ = whole
    run = tmp_path / "run"
    shutil.copytree(workdir, run)
    best = predictor.load(run).step
    shutil.rmtree(run / "checkpoints" / str(best) / "data")
    assert predictor.load(run).step != best
    assert f"checkpoints/{best} has lost its score" in capsys.readouterr().out


def test_where_none_is_whole_it_is_said(whole, tmp_path):
    config, workdir, _ = whole
    run = tmp_path / "run"
    shutil.copytree(workdir, run)
    damage(run, steps(run))
    for use in (train.train_and_evaluate, train.evaluate_checkpoint):
        with pytest.raises(UserError, match=r"(?s)no checkpoint can be restored:.*checkpoints/9 is damaged"):
            use(config, run)
    assert steps(run) == steps(workdir)
