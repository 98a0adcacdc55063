"""Every weighting method on one network, and the single-task networks: which methods are worth a closer look.

    python launch/sweep.py configs/all_methods.py --out=runs/all_methods
    python launch/sweep.py configs/all_methods.py:quick --out=runs/all_methods_quick
    python launch/sweep.py configs/all_methods.py:mtan,resnet18,seeds=3 --out=runs/all_methods_mtan

Arguments: a network, an encoder, quick, seeds=N (default: 1). All methods share one learning rate, which favors some:
`fair.py` tries several. Not yet run.
"""

from collections.abc import Callable

from configs import common
from mtlflax import models, weighting


def sweep(add: Callable[..., None], arg: str = "") -> None:
    """Add a run per method and seed; the single-task networks only beside the U-Net, which they are."""
    args, seeds = common.parse_sweep(arg, *models.MODELS)
    rest = tuple(part for part in args if part not in models.MODELS)
    for seed in seeds:
        if common.network(args) == "unet":
            for task in ("segmentation", "depth"):
                add(f"single_{task}/seed{seed}", common.command("single_task", task, *rest), {"seed": seed})
        for name in weighting.names():
            if name != "constant":  # which needs weights
                add(f"{name}/seed{seed}", common.command("weighting", name, *args), {"seed": seed})
