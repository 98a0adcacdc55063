"""PAP-Net (Zhang et al. 2019): tasks propagate by each other's affinities, the two losses simply added: equal weights.

python -m mtlflax.main --config=configs/pap_net.py [:resnet18|:resnet50|:densenet121] [,quick]

With `:quick` 6m07 on 2 cores of a Xeon, beside other work, on the embedded data set: mIoU 0.293, depth RMSE 0.0342
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Called by `--config=configs/pap_net.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="pap_net")
