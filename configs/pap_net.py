"""PAP-Net (Zhang et al. 2019): tasks propagate by each other's affinities, with equal weights.

    python -m mtlflax.main --config=configs/pap_net.py
    python -m mtlflax.main --config=configs/pap_net.py:quick
    python -m mtlflax.main --config=configs/pap_net.py:resnet18,quick

With `:quick` 6m07 on 2 cores of a Xeon, shared with other jobs, on the embedded data set: mIoU 0.293, depth RMSE 0.0342
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/pap_net.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="pap_net")
