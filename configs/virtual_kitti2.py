"""Virtual KITTI 2: rendered streets with classes and exact depth; the scene 20 is for validation.

    python -m mtlflax.main --config=configs/virtual_kitti2.py --config.data.root=vkitti2

The files: the archives rgb, depth and classSegmentation of Virtual KITTI 2.0.3, unpacked into one folder, so that it
holds Scene01, Scene02, ... Depth is in centimetres; the sky, beyond 655 m, is no measurement.
"""

from ml_collections import ConfigDict

from configs import folder

CLASSES = (
    {"name": "terrain", "color": (210, 0, 200)},
    {"name": "sky", "color": (90, 200, 255)},
    {"name": "tree", "color": (0, 199, 0)},
    {"name": "vegetation", "color": (90, 240, 0)},
    {"name": "building", "color": (140, 140, 140)},
    {"name": "road", "color": (100, 60, 100)},
    {"name": "guard rail", "color": (250, 100, 255)},
    {"name": "traffic sign", "color": (255, 255, 0)},
    {"name": "traffic light", "color": (200, 200, 0)},
    {"name": "pole", "color": (255, 130, 0)},
    {"name": "misc", "color": (80, 80, 80)},
    {"name": "truck", "color": (160, 60, 60)},
    {"name": "car", "color": (255, 127, 80)},
    {"name": "van", "color": (0, 139, 139)},
    {"name": "undefined", "color": (0, 0, 0), "ignore": True},
)


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/virtual_kitti2.py:ARG`."""
    frames = "{split}/{variant}/frames"
    fields = {
        "segmentation": {"files": f"{frames}/classSegmentation/{{camera}}/classgt_{{n}}.png", "classes": CLASSES},
        "depth": {"files": f"{frames}/depth/{{camera}}/depth_{{n}}.png", "scale": 0.01, "unknown": (0.0, 65535.0)},
    }
    splits = {"train": ("Scene01", "Scene02", "Scene06", "Scene18"), "val": "Scene20"}
    config = folder.build(arg, f"{frames}/rgb/{{camera}}/rgb_{{n}}.jpg", fields, splits=splits)
    config.data.size = (192, 640)
    return config
