"""AdaMT-Net (Jha et al. 2020): decoders with soft attention, and its weighting by the norms of the tasks' gradients.

    python -m mtlflax.main --config=configs/adamt_net.py
    python -m mtlflax.main --config=configs/adamt_net.py:quick
    python -m mtlflax.main --config=configs/adamt_net.py:resnet18,quick

With `:quick` 3m41 on 2 cores of a Xeon, shared with other jobs, on the embedded data set: mIoU 0.345, depth RMSE 0.0323
(best constant 0.1078).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/adamt_net.py:ARG`."""
    return common.get_config({"name": "adamt"}, common.parse(arg), model="adamt_net")
