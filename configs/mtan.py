"""MTAN (Liu et al. 2019): attention for each task on a shared encoder, with equal weights.

    python -m mtlflax.main --config=configs/mtan.py
    python -m mtlflax.main --config=configs/mtan.py:quick
    python -m mtlflax.main --config=configs/mtan.py:resnet18,quick

With `:quick` 4m59 on 2 cores of a Xeon, shared with other jobs, on the embedded data set: mIoU 0.226, depth RMSE 0.0372
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/mtan.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="mtan")
