"""A sluice network (Ruder et al. 2019): two U-Nets that share subspaces, the two losses simply added: equal weights.

python -m mtlflax.main --config=configs/sluice.py [:resnet18|:resnet50|:densenet121] [,quick]
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Called by `--config=configs/sluice.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="sluice")
