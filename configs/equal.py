"""The paper's multi-task U-Net, the two losses simply added.

python -m mtlflax.main --config=configs/equal.py [:resnet18|:resnet50|:densenet121] [,quick]
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Called by `--config=configs/equal.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg))
