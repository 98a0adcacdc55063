"""Networks for dense prediction: images [B, H, W, 3] in, a map of logits for each task out.

>>> model = get("unet", backbone="resnet18", heads={"segmentation": 19, "depth": 1})
>>> model.shared("encoder/conv1/kernel"), model.shared("decoder_depth/head/kernel")
(True, False)
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from mtlflax.models import pretrained
from mtlflax.models.adamt_net import AdaMTNet
from mtlflax.models.cross_stitch import CrossStitchNetwork
from mtlflax.models.deeplab import DeepLabV3Plus
from mtlflax.models.encoders import ENCODERS, encoder
from mtlflax.models.mtan import MTAN
from mtlflax.models.nddr import NDDRCNN
from mtlflax.models.pad_net import PADNet
from mtlflax.models.pap_net import PAPNet
from mtlflax.models.refinenet_lw import LightWeightRefineNet
from mtlflax.models.sluice import SluiceNetwork
from mtlflax.models.unet import UNet

__all__ = ["ENCODERS", "MODELS", "encoder", "get", "pretrained"]

MODELS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "deeplabv3plus": DeepLabV3Plus,
    "mtan": MTAN,
    "cross_stitch": CrossStitchNetwork,
    "sluice": SluiceNetwork,
    "nddr_cnn": NDDRCNN,
    "pad_net": PADNet,
    "pap_net": PAPNet,
    "adamt_net": AdaMTNet,
    "refinenet_lw": LightWeightRefineNet,
}


def get(name: str, *, backbone: str, heads: Mapping[str, int], **options: Any) -> nn.Module:
    """Returns a model: `apply(variables, images, train=False)` -> {task: [B, H, W, channels]}.

    Images are float [B, H, W, 3], normalised, of any size; outputs are float32 logits of that size.

    Args:
        name: a topology, a key of `MODELS`.
        backbone: one of `ENCODERS`.
        heads: task → channels of its output, in order.
        **options: the topology's own, see its class.

    Raises:
        ValueError: an unknown topology or backbone.
        TypeError: an option that the topology doesn't have.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    if backbone not in ENCODERS:
        raise ValueError(f"unknown backbone {backbone!r}: choose one of {', '.join(ENCODERS)}")
    return MODELS[name](backbone=backbone, heads=heads, **options)
