"""The protocol on which weighting methods are compared: MTAN's preprocessed Cityscapes, two networks and their recipes.

    python -m mtlflax.main --config=configs/mtan_protocol.py:cagrad --config.data.root=cityscapes2
    python -m mtlflax.main --config=configs/mtan_protocol.py:cagrad,segnet_mtan --config.data.root=cityscapes2

The data: `{train,val}/{image,label,depth}/{i}.npy`, 128×256, 7 classes, from github.com/lorenmt/mtan. Both recipes:
cross-entropy and L1, Adam 1e-4, halved after 100 of 200 epochs. Compare `val/segmentation/miou`, `pixel_accuracy`,
`val/depth/mtan_abs_err` and `mtan_rel_err` with published tables; for single tasks give `--config.tasks='("depth",)'`.

deeplabv3plus (the default): LibMTL's example and DB-MTL's table (arXiv 2308.12029): dilated ResNet-50 from ImageNet, an
    ASPP head per task, weight decay 1e-5, batch 64, no augmentation. Here images are normalized as ImageNet's are, and
    there is no dropout.
segnet_mtan: Nash-MTL's and FAMO's (arXiv 2202.01017, 2306.03792): SegNet with MTAN's attention from scratch, batch 8,
    zoom and flip. Here a zoomed disparity is multiplied by the zoom, as geometry has it; there it is divided. Their
    tables are means over the last ten epochs, of the lines of `metrics.jsonl`.

Not run on the data itself.
"""

from ml_collections import ConfigDict

from configs import common, weighting
from mtlflax import weighting as methods
from mtlflax.errors import UserError

NETWORKS = ("deeplabv3plus", "segnet_mtan")


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/mtan_protocol.py:ARG`; ARG names the method, and may name the network."""
    args = common.parse(arg, *methods.names(), *NETWORKS)
    given = [part for part in args if part in methods.names()]
    network = next((part for part in args if part in NETWORKS), NETWORKS[0])
    if len(given) != 1 or "quick" in args:
        raise UserError(f"configs/mtan_protocol.py: give one method, one of {', '.join(methods.names())}, and no quick")
    config = common.get_config(weighting.options(given[0]), args, model=network)
    config.data.name = "mtan"
    config.data.classes = 7
    config.data.augment.update(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    config.model.pretrained = ""
    if network == "deeplabv3plus":
        config.model.pretrained = "timm/resnet50.tv_in1k" if config.model.backbone == "resnet50" else ""
        config.data.augment.update(scales=(1.0,), flip=0.0)
        config.batch_size = 64
        config.optimizer.weight_decay = 1e-5
    config.epochs = 200.0
    config.optimizer.schedule = "steps"
    config.best.from_epoch = 0.0
    return config
