"""NDDR-CNN (Gao et al. 2019): two U-Nets, fused stage by stage, with equal weights.

    python -m mtlflax.main --config=configs/nddr_cnn.py
    python -m mtlflax.main --config=configs/nddr_cnn.py:quick
    python -m mtlflax.main --config=configs/nddr_cnn.py:resnet18,quick

With `:quick` 7m35 on 2 cores of a Xeon, shared with other jobs, on the embedded data set: mIoU 0.380, depth RMSE 0.0324
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/nddr_cnn.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="nddr_cnn")
