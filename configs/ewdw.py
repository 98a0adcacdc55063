"""The paper's "EWDW": equal weights, then dynamic weight averaging; the same as `configs/dwa.py`.

    python -m mtlflax.main --config=configs/ewdw.py
    python -m mtlflax.main --config=configs/ewdw.py:quick
    python -m mtlflax.main --config=configs/ewdw.py:resnet18,quick

The paper does not define the combination; our reading: dynamic weight averaging, whose weights are equal in its first
two epochs (Liu et al. 2019).
"""

from ml_collections import ConfigDict

from configs import common
from configs.weighting import options


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/ewdw.py:ARG`."""
    return common.get_config(options("ewdw"), common.parse(arg))
