"""Every network through a whole run: trained, resumed, evaluated, exported, and predicted with."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.trees import write_tree
from ml_collections import ConfigDict

from configs import three_tasks, weighting
from mtlflax import models, predict, train
from mtlflax.models import pretrained, resnet
from mtlflax.models.pretrained import __main__ as command
from mtlflax.models.pretrained import conversion
from mtlflax.run import predictor

# Of all topologies' options, what keeps them small.
SMALL = {
    "decoder_channels": (8, 8, 8, 8, 8),
    "head_stride": 4,
    "aspp_channels": 8,
    "atrous_rates": (1, 2),
    "width": 8,
    "affinity_channels": 4,
    "iterations": 2,
}
# The network, the method, and its level.
CASES = [(name, "equal", None) for name in models.MODELS]
CASES += [(name, "cagrad", "representation") for name in ("mtan", "deeplabv3plus", "refinenet_lw")]
CASES += [(name, "cagrad", "parameters") for name in ("cross_stitch", "pap_net")]

pytestmark = pytest.mark.slow


@pytest.fixture
def shallow(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Encoders with all their parts but few layers: what takes time is compiling."""
    blocks = 2 if name == "mtan" else 1  # MTAN looks inside the stages
    monkeypatch.setitem(resnet.VARIANTS, "resnet18", ((blocks,) * 4, False))
    conversion.layout.cache_clear()
    yield
    conversion.layout.cache_clear()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("cityscapes"), train=8, val=4)


def small(config: ConfigDict, tree: Path) -> ConfigDict:
    """The config for a run of four steps on 32×64 pixels, with a checkpoint after two."""
    config.data.name, config.data.root, config.data.size = "cityscapes", str(tree), (32, 64)
    config.model.update({key: value for key, value in SMALL.items() if key in config.model})
    config.epochs, config.evaluate_every = 2.0, 1.0
    config.pictures = 1
    return config


def final_state(workdir: Path) -> Any:
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        assert manager.latest_step() == 4
        return manager.restore(4, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(("name", "method", "level"), CASES)
def test_a_run_is_resumed_evaluated_and_exported(
    name: str, method: str, level: str | None, tree: Path, tmp_path: Path
) -> None:
    config = small(weighting.get_config(f"{method},{name},quick"), tree)
    if level:
        config.weighting.level = level
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    results = train.train_and_evaluate(config, whole)
    assert all(np.isfinite(results[key]) for key in ("val/segmentation/miou", "val/depth/rmse"))
    assert not [key for key in results if "aux" in key]
    steps = [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 4

    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "checkpoints" / "4")  # as if the process had been killed on the way there
    assert train.train_and_evaluate(config, killed) == results
    jax.tree.map(np.testing.assert_array_equal, final_state(whole), final_state(killed))

    best = train.evaluate_checkpoint(config, whole)
    assert best["val/segmentation/miou"] >= results["val/segmentation/miou"]

    photos = str(tree / "leftImg8bit/val/aachen/*000001*.png")
    assert predict.main(["--workdir", str(whole), "--images", photos, "--out", str(tmp_path / "maps")]) == 0
    (depth,) = (tmp_path / "maps").glob("*_depth.png")
    assert cv2.imread(str(depth), cv2.IMREAD_UNCHANGED).shape == (32, 64)

    run = predictor.load(whole)
    for path in run.network.model.encoders:
        out = tmp_path / f"{path}.safetensors"
        command.main(["--export", str(whole), "--out", str(out), "--encoder", path])
        exported = pretrained.convert("resnet18", pretrained.read(out).tensors)
        theirs = {collection: tree[path] for collection, tree in run.variables.items()}
        jax.tree.map(np.testing.assert_array_equal, exported, theirs)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["pad_net", "sluice"])
def test_three_tasks_train_another_network(name: str, tree: Path, tmp_path: Path) -> None:
    config = small(three_tasks.get_config(f"{name},quick"), tree)
    results = train.train_and_evaluate(config, tmp_path / "run")
    assert 0 < results["val/normals/mean_angle"] < 180
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss/normals", "train/weight/normals"} <= {key for line in log for key in line}
