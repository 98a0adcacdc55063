"""PAD-Net (Xu et al. 2018): tasks distil each other's initial predictions, the two losses simply added: equal weights.

python -m mtlflax.main --config=configs/pad_net.py [:resnet18|:resnet50|:densenet121] [,quick]

With `:quick` 5m54 on 2 cores of a Xeon, beside other work, on the embedded data set: mIoU 0.307, depth RMSE 0.0330
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Called by `--config=configs/pad_net.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="pad_net")
