"""KITTI's depth: LiDAR, accumulated, at a few of the pixels.

    python -m mtlflax.main --config=configs/kitti_depth.py --config.data.root=KITTI

The files: the raw recordings ({date}/{drive}/image_02/data) and data_depth_annotated.zip ({train,val}/{drive}/...) of
www.cvlibs.net/datasets/kitti, unpacked into one folder. Pictures without depth are left out.
"""

from ml_collections import ConfigDict

from configs import folder


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/kitti_depth.py:ARG`."""
    lidar = "{split}/{drive}/proj_depth/groundtruth/image_02/{frame}.png"
    depth = {"files": lidar, "scale": 1 / 256, "most": 80.0, "sparse": True}
    config = folder.build(arg, "{date}/{drive}/image_02/data/{frame}", {"depth": depth})
    config.data.size = (192, 640)
    return config
