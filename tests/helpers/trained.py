"""A run of a tiny network on a tree of Cityscapes' kind, trained within a second."""

from pathlib import Path

from helpers.trees import write_tree
from ml_collections import ConfigDict

from configs import dwa
from mtlflax import train


def tiny_config(root: Path, **changes: object) -> ConfigDict:
    """Return the config of a run on a tree."""
    config = dwa.get_config("quick")
    config.data.name = "auto"
    config.data.root = str(root)
    config.data.size = (32, 64)
    config.model.name = "helpers.tiny:tiny"
    config.batch_size = 4
    config.epochs = 1.0
    config.update(changes)
    return config


def tiny_run(folder: Path) -> Path:
    """Write a tree into a folder and train on it; return the workdir."""
    train.train_and_evaluate(tiny_config(write_tree(folder / "tree")), folder / "run")
    return folder / "run"
