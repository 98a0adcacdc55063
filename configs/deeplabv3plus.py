"""DeepLabV3+, the network of LibMTL's Cityscapes benchmark, with equal weights.

    python -m mtlflax.main --config=configs/deeplabv3plus.py
    python -m mtlflax.main --config=configs/deeplabv3plus.py:quick
    python -m mtlflax.main --config=configs/deeplabv3plus.py:resnet18,quick

With `:quick` 4m35 on 2 cores of a Xeon, shared with other jobs, on the embedded data set: mIoU 0.219, depth RMSE 0.0367
(best constant 0.1078).

Published results for it, at 7 classes and batch 64: --config.data.classes=7 --config.batch_size=64. LibMTL calls it
DeepLabV3+; with the decoder of Chen et al. 2018, --config.model.low_channels=48, it is one.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/deeplabv3plus.py:ARG`."""
    return common.get_config({"name": "equal"}, common.parse(arg), model="deeplabv3plus")
