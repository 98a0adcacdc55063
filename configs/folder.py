"""Your own pictures, classes and depth, in folders; docs/your_own_files.md has the options.

    python -m mtlflax.data.folder --check --config=configs/folder.py --config.data.root=FOLDER
    python -m mtlflax.main --config=configs/folder.py:quick --config.data.root=FOLDER
    python -m mtlflax.main --config=configs/folder.py:segmentation,resnet18 --config.data.root=FOLDER

FOLDER holds `images`, `segmentation` and `depth`; files of one name belong together. Images are photos of any kind, the
values of label maps are the classes (255: no label), and depth is stored in millimetres (0: no measurement). A fifth of
the frames is for validation. For one task alone give its name; for another weighting method, its name: `:famo,quick`.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common, weighting
from mtlflax import weighting as methods
from mtlflax.errors import UserError

TASKS = ("segmentation", "depth")
FIELDS = {
    "segmentation": {"kind": "labels", "files": "segmentation/*", "classes": "found"},
    "depth": {
        "kind": "depth",
        "files": "depth/*",
        "scale": 0.001,  # stored × scale + offset is in `unit`
        "offset": 0.0,
        "unit": "metres",
        "unknown": (0.0,),  # stored values that are no measurement
        "least": 0.0,  # the valid range, in `unit`
        "most": 0.0,  # 0: no limit
        "sparse": False,
    },
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/folder.py:ARG`."""
    config = build(arg, "images/*", FIELDS)
    if "quick" in common.parse(
        arg, *TASKS, *methods.names()
    ):  # for tens of pictures; with thousands, give fewer epochs
        config.epochs, config.evaluate_every = 100.0, 10.0
    return config


def build(arg: str | None, image: str, fields: dict[str, Any], **options: Any) -> ConfigDict:
    """Return the config of a data set in folders, for configs like this one.

    Args:
        arg: what stands behind the colon of --config: tasks, a weighting method, and what all configs take.
        image: the images' pattern.
        fields: `config.data.folder.fields`; "segmentation" and "depth", if they are there, are the tasks.
        **options: other keys of `config.data.folder`.
    """
    known = tuple(name for name in TASKS if name in fields)
    args = common.parse(arg, *known, *methods.names())
    tasks = tuple(name for name in known if name in args) or known
    given = [name for name in args if name in methods.names()]
    if len(given) > 1 or (given and len(tasks) == 1):
        raise UserError(f"config arguments {', '.join(args)}: one weighting method, for two tasks")
    config = common.get_config(weighting.options((given or ["dwa" if len(tasks) > 1 else "equal"])[0]), args)
    config.tasks = tasks
    if tasks == ("depth",):
        config.best.update(metric="val/depth/rmse", mode="min")
    config.data.name = "folder"
    # Of the two, what a task reads; other fields stay, for tasks of one's own.
    kept = {name: options for name, options in fields.items() if name not in TASKS or name in tasks}
    chosen = {"list": "", "image": image, "white": 0, "val_share": 0.2, "fields": kept}
    chosen["splits"] = {"train": "", "val": ""}
    config.data.folder = ConfigDict(chosen | options)
    return config
