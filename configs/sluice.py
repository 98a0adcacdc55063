"""A sluice network (Ruder et al. 2019): two U-Nets that share subspaces, with equal weights.

    python -m mtlflax.main --config=configs/sluice.py
    python -m mtlflax.main --config=configs/sluice.py:quick
    python -m mtlflax.main --config=configs/sluice.py:resnet18,quick

With `:quick` 6m50 on 2 cores of a Xeon, shared with other jobs, on the embedded data set: mIoU 0.375, depth RMSE 0.0336
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/sluice.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="sluice")
