"""Networks for dense prediction: images [B, H, W, 3] in, a map of logits per task out.

>>> model = get("unet", backbone="resnet18", heads={"segmentation": 19, "depth": 1})
>>> model.shared("encoder/conv1/kernel"), model.shared("decoder_depth/head/kernel")
(True, False)
"""

from collections.abc import Callable, Mapping
from typing import Any

from mtlflax import registry
from mtlflax.models import encoders, pretrained
from mtlflax.models.adamt_net import AdaMTNet
from mtlflax.models.checks import check_single_frame
from mtlflax.models.cross_stitch import CrossStitchNetwork
from mtlflax.models.deeplab import DeepLabV3Plus
from mtlflax.models.encoders import ENCODERS, Backbone, Encoder, encoder
from mtlflax.models.mtan import MTAN
from mtlflax.models.nddr import NDDRCNN
from mtlflax.models.network import Network, Topology
from mtlflax.models.own_parts import check_encoder, check_network
from mtlflax.models.pad_net import PADNet
from mtlflax.models.pap_net import PAPNet
from mtlflax.models.refinenet_lw import LightWeightRefineNet
from mtlflax.models.segnet_mtan import SegNetMTAN
from mtlflax.models.sluice import SluiceNetwork
from mtlflax.models.unet import UNet

__all__ = ["ENCODERS", "MODELS", "Encoder", "Network", "check_encoder", "check_network", "check_single_frame"]
__all__ += ["encoder", "get", "pretrained"]

MODELS: dict[str, type[Topology]] = {
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
    "segnet_mtan": SegNetMTAN,
}


def get(name: str | Callable[..., Any], *, backbone: Backbone, heads: Mapping[str, int], **options: Any) -> Any:
    """Return a network, see `Network`: `apply(variables, images, train=False)` -> {task: [B, H, W, channels]}.

    Images are float [B, H, W, 3], normalized, of any size; outputs are float32 logits of that size.

    Args:
        name: a key of `MODELS`, "package.module:name", or the class or function that such a name stands for. It is
            called with `backbone`, `heads` and the options.
        backbone: the encoder: a key of `ENCODERS`, "package.module:name", or a class or function, see `encoder`.
        heads: task → channels of its output, in order.
        **options: those of the network, see its class, and `axis_name`.

    An unknown network or backbone is a UserError, an option that the network does not have a TypeError.
    """
    encoders.find(backbone)
    network = registry.find(name, MODELS, what="network") if isinstance(name, str) else name
    return network(backbone=backbone, heads=heads, **options)
