"""KITTI's semantic segmentation: 200 street pictures with Cityscapes' classes.

    python -m mtlflax.main --config=configs/kitti_semantic.py --config.data.root=data_semantics

The files: data_semantics.zip of www.cvlibs.net/datasets/kitti, unpacked; a fifth of `training` is for validation.
"""

from ml_collections import ConfigDict

from configs import folder


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/kitti_semantic.py:ARG`."""
    labels = {"files": "training/semantic/*", "classes": "cityscapes"}
    config = folder.build(arg, "training/image_2/*", {"segmentation": labels})
    config.data.size = (192, 640)
    return config
