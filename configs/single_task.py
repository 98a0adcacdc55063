"""The paper's single-task U-Nets: the same network with one decoder, a plain one.

The paper gives its single-task figures before it introduces attention, so there is none here;
`--config.model.attention=gate` adds the gates of the multi-task networks.

    python -m mtlflax.main --config=configs/single_task.py:segmentation
    python -m mtlflax.main --config=configs/single_task.py:depth,quick
    python -m mtlflax.main --config=configs/single_task.py:depth,densenet121,quick

With `quick` 2 minutes each on 2 cores of a Xeon, on the embedded data set: mIoU 0.363; depth RMSE 0.0356 (best constant
0.1078).
"""

from ml_collections import ConfigDict

from configs import common
from mtlflax.errors import UserError

TASKS = ("segmentation", "depth")


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/single_task.py:ARG`; ARG names the task."""
    args = common.parse(arg, *TASKS)
    chosen = tuple(task for task in TASKS if task in args)
    if len(chosen) != 1:
        raise UserError("configs/single_task.py: give one task, :segmentation or :depth")
    config = common.get_config({"name": "equal"}, args)
    config.tasks = chosen
    config.model.attention = "none"
    if "quick" not in args:
        config.epochs = 85.0
        config.best.from_epoch = 70.0
    if chosen == ("depth",):
        config.best.metric = "val/depth/rmse"
        config.best.mode = "min"
    return config
