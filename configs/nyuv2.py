"""NYU Depth v2: 1449 indoor pictures, 13 classes and depth.

    python -m mtlflax.main --config=configs/nyuv2.py --config.data.root=nyuv2

The files: {train,test}/{rgb,depth,labels_13}, as `src/datasets/nyuv2/prepare_dataset.py` of github.com/TUI-NICR/ESANet
makes them. As in published tables, `test` is what is evaluated; for choosing on frames held out of `train` give
--config.data.validation=holdout.
"""

from ml_collections import ConfigDict

from configs import folder

# fmt: off
NAMES = ("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv", "wall",
         "window")
# fmt: on


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/nyuv2.py:ARG`."""
    classes = ({"name": "void", "ignore": True}, *NAMES)
    fields = {
        "segmentation": {"files": "{split}/labels_13/*", "classes": classes},
        "depth": {"files": "{split}/depth/*", "scale": 0.001},
    }
    config = folder.build(arg, "{split}/rgb/*", fields, splits={"val": "test"})
    config.data.size = (288, 384)
    return config
