"""A run trained on to more epochs, and runs that start from the network of another."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers.commands import call, final_state, flags, history, results, the_error
from helpers.trees import write_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("cityscapes"))


@pytest.fixture(scope="module")
def short(tree, tmp_path_factory):
    """A finished run of two epochs of three steps, for depth."""
    workdir = tmp_path_factory.mktemp("short") / "run"
    call(flags(tree, workdir, *OPTIONS))
    return workdir


OPTIONS = ["--config.epochs=2", "--config.tasks=('depth',)", "--config.best.metric=val/depth/rmse"]
OPTIONS += ["--config.best.mode=min", "--config.log_every=1"]


def test_a_run_is_trained_on(short, tree, tmp_path):
    """At the learning rate of a run of so many epochs; stopped on the way, it resumes by the same command."""
    workdir = tmp_path / "run"
    shutil.copytree(short, workdir)
    refused = call(flags(tree, workdir, *OPTIONS, "--config.epochs=4"), code=1)
    assert "epochs: 2.0 there, 4.0 here" in the_error(refused)
    call([f"--workdir={workdir}", "--extend", "--config.epochs=4"])
    lines = {line["step"]: line for line in history(workdir) if "train/learning_rate" in line}
    assert list(lines) == list(range(1, 13))
    rates = [0.01 * (1 - (step - 1) / total) ** 0.9 for step, total in [(6, 6), (7, 12), (12, 12)]]
    assert [lines[step]["train/learning_rate"] for step in (6, 7, 12)] == pytest.approx(rates, rel=1e-4)
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["epochs"] == 4
    assert record["extended"] == [{"step": 6, "from": 2.0, "to": 4.0}]
    assert (results(workdir)["step"], results(workdir)["finished"]) == (12, True)
    shutil.rmtree(workdir / "checkpoints" / "12")  # as if it had been killed
    before = final_state(workdir)[0]
    assert before[-1] == 9
    call([f"--workdir={workdir}", "--extend", "--config.epochs=4"])
    assert results(workdir)["step"] == 12
    assert json.loads((workdir / "config.json").read_text())["extended"] == record["extended"]
    fewer = call([f"--workdir={workdir}", "--extend", "--config.epochs=3"], code=1)
    assert "is a run of 4 epochs: --extend needs --config.epochs above that" in the_error(fewer)
    nothing = call([f"--workdir={tmp_path / 'none'}", "--extend", "--config.epochs=3"], code=2)
    assert "is not a run's workdir" in nothing


def test_a_run_starts_from_another_with_other_heads_and_a_frozen_trunk(short, tree, tmp_path):
    workdir = tmp_path / "run"
    start = f"--config.model.start_from={short}"
    said = call(flags(tree, workdir, "--config.epochs=2", start, "--config.model.freeze=trunk"))
    assert f"of {short}; new: decoder_segmentation" in said
    begun, trained = final_state(short)[1], final_state(workdir)[1]
    for path in ("encoder", "encoder_bn"):
        jax.tree.map(np.testing.assert_array_equal, begun["params"][path], trained["params"][path])
    assert not np.array_equal(begun["params"]["decoder_depth"]["kernel"], trained["params"]["decoder_depth"]["kernel"])
    stats = (np.asarray(each["batch_stats"]["encoder_bn"]["mean"]) for each in (begun, trained))
    assert not np.array_equal(*stats)  # they follow the data
    assert trained["step"] == 6
    shutil.rmtree(workdir / "checkpoints" / "6")
    resumed = call(flags(tree, workdir, "--config.epochs=2", start, "--config.model.freeze=trunk"))
    assert "network: " not in resumed  # from its own checkpoint now
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir)[1], trained)


def test_what_cannot_be_started_from(short, tree, tmp_path):
    def error(*options):
        return the_error(call(flags(tree, tmp_path / "run", *options), code=1))

    start = f"--config.model.start_from={short}"
    assert "is not a run's workdir" in error(f"--config.model.start_from={tmp_path / 'none'}")
    assert "is of another network: batch_stats/encoder_bn/mean is of shape [8] there, and [16] here" in error(
        start, "--config.model.name=helpers.tiny:split"
    )
    assert "give model.pretrained or model.start_from" in error(start, "--config.model.pretrained=x.npz")
    assert "model.freeze is 'head': choose trunk" in error("--config.model.freeze=head")
