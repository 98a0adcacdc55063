"""PAD-Net (Xu et al. 2018): tasks distil each other's initial predictions, the two losses simply added: equal weights.

python -m mtlflax.main --config=configs/pad_net.py [:resnet18|:resnet50|:densenet121] [,quick]
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Called by `--config=configs/pad_net.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="pad_net")
