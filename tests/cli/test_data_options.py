"""What the data's options do in a run: each is trained with, from the config to the results."""

import json

import pytest
from helpers import folders
from helpers.commands import run

SMALL = [
    "--config.data.size=(32,64)",
    "--config.data.streets.train=8",
    "--config.data.streets.val=4",
    "--config.model.name=helpers.tiny:tiny",
    "--config.batch_size=4",
    "--config.epochs=3.0",
    "--config.evaluate_every=1.0",
    "--config.log_every=1",
]


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def test_all_options_at_once(tmp_path):
    """A cache, rare classes, augmentation in the step, class weights, hard pixels, a stepped rate, held-out frames."""
    options = [*SMALL, f"--workdir={tmp_path / 'run'}"]
    out = ["--out", str(tmp_path / "statistics")]
    said = run(
        ["--config=configs/dwa.py:quick", *SMALL[:3], *out],
        module="mtlflax.data.statistics",
        MTLFLAX_CACHE=str(tmp_path / "cache"),
    )
    assert "train: 8 frames" in said
    weights = tmp_path / "statistics" / "class_weights_enet.json"
    options += [
        "--config=configs/dwa.py:quick",
        "--config.data.cache=auto",
        "--config.data.balance=0.01",
        "--config.data.on_error=skip",
        "--config.data.augment.device=True",
        "--config.data.augment.scales=(1.0,1.5)",
        "--config.data.validation=holdout",
        "--config.data.holdout=0.25",
        "--config.losses.segmentation=ohem",
        f"--config.losses.class_weights={weights}",
        "--config.optimizer.schedule=steps",
        "--config.optimizer.step_epochs=1.0",
        "--config.diagnostics.every=1",
    ]
    said = run(options, MTLFLAX_CACHE=str(tmp_path / "cache"))
    assert "making a cache of 12 frames" in said
    found = results(tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "config.json").read_text())["facts"]
    assert (facts["num_train"], facts["num_holdout"], facts["num_val"]) == (6, 2, 4)
    assert "val/depth/class_mae_metres/road" in found
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["train/learning_rate"] for line in lines if "train/learning_rate" in line]
    assert rates == pytest.approx([rates[0] / 2**i for i in range(3)])
    assert run(options, MTLFLAX_CACHE=str(tmp_path / "cache")).count("making a cache") == 0  # resumed at its end
    weights.unlink()
    assert "cannot be read" in run(options, code=1, MTLFLAX_CACHE=str(tmp_path / "cache"))


MIXED = """
from ml_collections import ConfigDict
from configs import dwa, folder

def get_config(arg=None):
    config = dwa.get_config("quick")
    depth = folder.get_config().data.folder.to_dict()
    depth["fields"] = {{"depth": depth["fields"]["depth"]}}
    config.data.name = "mixture"
    config.data.mixture = ConfigDict({{
        "drawn": {{"name": "streets", "depth": "metres", "per_batch": 3}},
        "mine": {{"name": "folder", "root": {root!r}, "folder": depth, "per_batch": 1}},
    }})
    return config
"""


def test_a_mixture_is_trained_on(tmp_path):
    root = folders.photos(tmp_path / "photos")
    (tmp_path / "mixed.py").write_text(MIXED.format(root=str(root)))
    command = [f"--config={tmp_path / 'mixed.py'}", *SMALL, f"--workdir={tmp_path / 'run'}"]
    said = run(command)
    assert "16 training and 6 validation frames" in said
    found = results(tmp_path / "run")
    assert found["val/depth/rmse_constant"] > 1  # metres
    assert "val/segmentation/miou" in found
    assert "batch_size is 8, but data.mixture has 3 + 1 frames in a batch" in run(
        [*command, "--config.batch_size=8", f"--workdir={tmp_path / 'other'}"], code=1
    )
