"""MTAN (Liu et al. 2019): attention for each task on a shared encoder, the two losses simply added: equal weights.

python -m mtlflax.main --config=configs/mtan.py [:resnet18|:resnet50|:densenet121] [,quick]

With `:quick` 4m59 on 2 cores of a Xeon, beside other work, on the embedded data set: mIoU 0.226, depth RMSE 0.0372
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Called by `--config=configs/mtan.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="mtan")
