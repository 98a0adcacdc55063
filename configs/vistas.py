"""Mapillary Vistas 2.0: 20,000 street pictures from all over the world.

    python -m mtlflax.main --config=configs/vistas.py --config.data.root=mapillary-vistas

The files: as unpacked, with config_v2.0.json beside `training` and `validation`.
"""

from ml_collections import ConfigDict

from configs import folder


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/vistas.py:ARG`."""
    labels = {"files": "{split}/v2.0/labels/*", "classes": "config_v2.0.json"}
    splits = {"train": "training", "val": "validation"}
    config = folder.build(arg, "{split}/images/*", {"segmentation": labels}, splits=splits)
    config.data.size = (384, 512)
    return config
