"""The benchmark of a step: what it times is a step that trains, and what it writes is whole."""

import json

import numpy as np
from helpers.batches import FIELDS
from helpers.commands import call

from configs import dwa
from mtlflax import experiment, tasks
from mtlflax.benchmark import __main__ as benchmark
from mtlflax.benchmark import step
from mtlflax.training import parallel


def test_everything_is_known_in_a_made_up_batch():
    batch = step.made_up(FIELDS, (8, 16), 3)
    for name, field in FIELDS.items():
        assert batch[name].shape == (3, *field.shape((8, 16)))
        assert batch[name].dtype == field.dtype
    for task in (tasks.segmentation(FIELDS), tasks.depth(FIELDS)):
        assert np.all(task.valid(batch))


def test_a_step_is_timed(monkeypatch):
    config = dwa.get_config("quick")
    config.model.name, config.data.size = "helpers.tiny:tiny", (32, 64)
    built = experiment.build(config)
    found = step.measure(built, parallel.make_mesh(4), steps=3)
    assert 0 < found.median <= found.p90 < found.compile_seconds
    assert found.images_per_second == config.batch_size / found.median


def test_the_command_keeps_its_figures(tmp_path):
    said = call(
        [
            "--config=configs/dwa.py:quick",
            "--config.model.name=helpers.tiny:tiny",
            "--config.data.size=(32,64)",
            "--steps=2",
            f"--out={tmp_path / 'step.json'}",
        ],
        benchmark.main,
    )
    assert "s per step (p90" in said
    content = json.loads((tmp_path / "step.json").read_text())
    assert content["steps"] == 400
    assert content["median"] > 0
    assert content["versions"]["jax"]
    assert "--steps=0: must be at least 1" in call(["--config=configs/dwa.py", "--steps=0"], benchmark.main, code=2)


def test_input_is_timed(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    small = ["--config.data.size=(32,64)", "--config.data.streets.train=12", "--config.data.streets.val=2"]
    for more in ([], ["--config.data.cache=auto"]):
        said = call(
            [
                "--what=input",
                "--config=configs/dwa.py:quick",
                "--seconds=0.2",
                f"--out={tmp_path / 'input.json'}",
                *small,
                *more,
            ],
            benchmark.main,
        )
        assert "images/s at 32×64, a batch of 4 each" in said
        content = json.loads((tmp_path / "input.json").read_text())
        assert content["what"] == "input"
        assert content["images_per_second"] > 0
        assert content["batch_megabytes"] == 4 * (32 * 64 * (3 + 1 + 4) + 4) / 1e6
