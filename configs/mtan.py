"""MTAN (Liu et al. 2019): attention for each task on a shared encoder, the two losses simply added: equal weights.

python -m mtlflax.main --config=configs/mtan.py [:resnet18|:resnet50|:densenet121] [,quick]
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Called by `--config=configs/mtan.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="mtan")
