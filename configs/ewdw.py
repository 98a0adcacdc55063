"""The paper's "EWDW": equal weights, then dynamic weight averaging. Which is `configs/dwa.py`, under the paper's name.

python -m mtlflax.main --config=configs/ewdw.py [:resnet18|:resnet50|:densenet121] [,quick]

The paper does not define the combination; our reading: dynamic weight averaging, whose weights are equal in its first
two epochs (Liu et al. 2019).
"""

from ml_collections import ConfigDict

from configs import common
from configs.weighting import options


def get_config(arg: str | None = None) -> ConfigDict:
    """Called by `--config=configs/ewdw.py:ARG`."""
    return common.get_config(options("ewdw"), common.parse(arg))
