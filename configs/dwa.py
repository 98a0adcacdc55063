"""The paper's multi-task U-Net with dynamic weight averaging, ResNet-50.

python -m mtlflax.main --config=configs/dwa.py          the paper's recipe; not yet run to its end
python -m mtlflax.main --config=configs/dwa.py:quick    2m01s on two cores (EPYC), embedded data set:
                                                        mIoU 0.361, depth RMSE 0.0336 (best constant 0.1078)
python -m mtlflax.main --config=configs/dwa.py:densenet121,quick    5m52 on a Xeon: mIoU 0.386, depth RMSE 0.0328

Arguments: resnet18, resnet50 (the default) or densenet121, and quick; joined by commas.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/dwa.py:ARG`."""
    return common.get_config({"name": "dwa", "temperature": 2.0}, common.parse(arg))
