"""A sluice network (Ruder et al. 2019): two U-Nets that share subspaces, the two losses simply added: equal weights.

python -m mtlflax.main --config=configs/sluice.py [:resnet18|:resnet50|:densenet121] [,quick]

With `:quick` 6m50 on 2 cores of a Xeon, beside other work, on the embedded data set: mIoU 0.375, depth RMSE 0.0336
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Called by `--config=configs/sluice.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="sluice")
