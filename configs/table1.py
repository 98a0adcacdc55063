"""The paper's table: eight models, ResNet-50 and DenseNet-121, single-task and multi-task, three seeds each.

    python launch/sweep.py configs/table1.py --out=runs/table1
    python launch/sweep.py configs/table1.py:quick --out=runs/table1_quick --jobs=2

With `quick`: ResNet-18 in the place of ResNet-50, on the embedded data set, 82 minutes on two CPU cores (README.md has
the table). seeds=N: another number of seeds. Without `quick` it has not been run: that takes a GPU and Cityscapes.
"""

from collections.abc import Callable

from configs import common

MODELS = {
    "single_segmentation": ("single_task", "segmentation"),
    "single_depth": ("single_task", "depth"),
    "ewdw": ("ewdw",),
    "gwgl": ("gwgl",),
}


def sweep(add: Callable[..., None], arg: str = "") -> None:
    """Add eight models × seeds, all models of a seed first, so that there is a whole table early."""
    args, seeds = common.parse_sweep(arg, seeds=3)
    for seed in seeds:
        for backbone in ("resnet18" if "quick" in args else "resnet50", "densenet121"):
            for model, (file, *task) in MODELS.items():
                config = common.command(file, *task, backbone, *args)
                add(f"{model}_{backbone}/seed{seed}", config, {"seed": seed})
