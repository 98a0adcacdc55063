"""Light-weight RefineNet (Nekrasov et al. 2019): one decoder for both tasks, with equal weights.

    python -m mtlflax.main --config=configs/refinenet_lw.py
    python -m mtlflax.main --config=configs/refinenet_lw.py:quick
    python -m mtlflax.main --config=configs/refinenet_lw.py:resnet18,quick

With `:quick` 2m13 on 2 cores of a Xeon, on the embedded data set: mIoU 0.355, depth RMSE 0.0365 (best constant
0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/refinenet_lw.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="refinenet_lw")
