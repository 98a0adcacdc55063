"""PAD-Net (Xu et al. 2018): tasks distil each other's initial predictions, with equal weights.

    python -m mtlflax.main --config=configs/pad_net.py
    python -m mtlflax.main --config=configs/pad_net.py:quick
    python -m mtlflax.main --config=configs/pad_net.py:resnet18,quick

With `:quick` 5m54 on 2 cores of a Xeon, shared with other jobs, on the embedded data set: mIoU 0.307, depth RMSE 0.0330
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/pad_net.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="pad_net")
