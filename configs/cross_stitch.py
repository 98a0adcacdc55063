"""A cross-stitch network (Misra et al. 2016): two stitched U-Nets, with equal weights.

    python -m mtlflax.main --config=configs/cross_stitch.py
    python -m mtlflax.main --config=configs/cross_stitch.py:quick
    python -m mtlflax.main --config=configs/cross_stitch.py:resnet18,quick

With `:quick` 6m20 on 2 cores of a Xeon, shared with other jobs, on the embedded data set: mIoU 0.374, depth RMSE 0.0332
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/cross_stitch.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="cross_stitch")
