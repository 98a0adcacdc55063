"""The paper's table: eight models, ResNet-50 and DenseNet-121, single-task and multi-task, three seeds each.

    python launch/sweep.py configs/table1.py --out=runs/table1
    python launch/sweep.py configs/table1.py:quick --out=runs/table1_quick

Not yet run. With `quick`: ResNet-18 in the place of ResNet-50, on the embedded data set.
"""

from collections.abc import Callable

from mtlflax.errors import UserError

MODELS = {
    "single_segmentation": "single_task.py:segmentation",
    "single_depth": "single_task.py:depth",
    "ewdw": "ewdw.py:",
    "gwgl": "gwgl.py:",
}
SEEDS = 3


def sweep(add: Callable[..., None], arg: str = "") -> None:
    """Add eight models × seeds; ARG is `quick`, `seeds=N`, or both, joined by a comma."""
    quick, seeds = False, SEEDS
    for part in filter(None, (part.strip() for part in arg.split(","))):
        name, _, number = part.partition("=")
        if part == "quick":
            quick = True
        elif name == "seeds" and number.isdecimal() and int(number) > 0:
            seeds = int(number)
        else:
            raise UserError(f"configs/table1.py: unknown argument {part!r}: choose from quick, seeds=N")
    backbones = ("resnet18", "densenet121") if quick else ("resnet50", "densenet121")
    for seed in range(seeds):  # all models of one seed first, so that there is a whole table early
        for backbone in backbones:
            for model, config in MODELS.items():
                file, _, task = config.partition(":")
                args = ",".join(filter(None, (task, backbone, "quick" if quick else "")))
                add(f"{model}_{backbone}/seed{seed}", f"configs/{file}:{args}", {"seed": seed})
