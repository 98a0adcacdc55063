"""The paper's multi-task U-Net, with equal weights.

    python -m mtlflax.main --config=configs/equal.py
    python -m mtlflax.main --config=configs/equal.py:quick
    python -m mtlflax.main --config=configs/equal.py:resnet18,quick

With `:quick` 2m26 on 2 cores of a Xeon, on the embedded data set: mIoU 0.364, depth RMSE 0.0332 (best constant
0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/equal.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg))
