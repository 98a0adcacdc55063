"""The paper's "GWGL": gradient weighting and the geometric loss.

    python -m mtlflax.main --config=configs/gwgl.py
    python -m mtlflax.main --config=configs/gwgl.py:quick
    python -m mtlflax.main --config=configs/gwgl.py:resnet18,quick

With `:quick` 2m55 on 2 cores of a Xeon, on the embedded data set: mIoU 0.348, depth RMSE 0.0355 (best constant
0.1078).

The paper does not define the combination; our reading: the geometric mean of the losses (Chennupati et al. 2019), whose
weights GradNorm then balances (Chen et al. 2018), one after the other in an optax chain.
"""

from ml_collections import ConfigDict

from configs import common
from configs.weighting import options


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/gwgl.py:ARG`."""
    return common.get_config(options("gwgl"), common.parse(arg))
