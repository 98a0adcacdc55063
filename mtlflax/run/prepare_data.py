"""Before a run reads its data: which data set it is, how many frames, and whether there is anything to learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mtlflax import data
from mtlflax.data import samples
from mtlflax.errors import UserError
from mtlflax.training.parallel import say

if TYPE_CHECKING:
    from mtlflax.experiment import Experiment


def describe_data(config: ConfigDict) -> str:
    """Return which data set a config reads, in words."""
    if config.data.name == "streets":
        return "streets, the embedded data set of rendered scenes: NOT Cityscapes"
    where = f" at {config.data.root}" if config.data.root else ""
    return f"{config.data.name}{where}, read at {tuple(config.data.size)}"


def prepare_data(experiment: Experiment, asked_for: str, mesh: Mesh) -> None:
    """Say which data set this is, so that nobody takes one for another; make it ready to be read, and check its truth.

    `asked_for` is `data.name` as the config had it before it was resolved. UserError if the frames are of another size
    than `data.size`, or a task has nothing to learn from.
    """
    config = experiment.config
    if config.data.name == "streets":
        how = "For Cityscapes set CITYSCAPES_DATASET or --config.data.root to the folder of leftImg8bit, gtFine, …"
        if asked_for == "streets":
            how = "The config asks for it: data.name is streets (as with the argument quick)."
        rule = "=" * 110
        say(f"{rule}\nDATA: {describe_data(config)}.\n      {how}\n{rule}")
    else:
        say(f"DATA: {describe_data(config)}")
    for source in (experiment.training, *experiment.evaluated.values()):
        if prepare := getattr(source, "prepare", None):
            prepare()
    image = {"image": experiment.fields["image"]}
    first = samples.Readable(samples.Checked(experiment.training, image), config.data.on_error)[0]
    size = first["image"].shape[:2]
    if size != experiment.size:  # prediction scales pictures to data.size
        raise UserError(f"the training frames are {size[0]}×{size[1]}: give '--config.data.size={size}', their size")
    held = [f"{len(source)} held out of them" for source in [experiment.evaluated.get("holdout")] if source]
    counts = [f"{len(experiment.training)} training", *held, f"{len(experiment.evaluated['val'])} validation frames"]
    say(f"{' and '.join(counts)}; {mesh.size} × {mesh.devices.flat[0].device_kind}")
    if experiment.facts["train_frames"] == experiment.facts["val_frames"]:
        say("NOTE: the training and the validation frames have the same names: are they the same frames?")
    reads = {task.name: task.fields for task in experiment.tasks}
    for note in data.check_truth(experiment.training, reads, config.data.on_error):
        say(f"NOTE: {note}")
