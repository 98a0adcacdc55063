"""A fair comparison: each method at its own best learning rate, against a grid of static weights.

    python launch/sweep.py configs/fair.py --out=runs/fair
    python launch/sweep.py configs/fair.py:quick --out=runs/fair_quick
    python launch/sweep.py configs/fair.py:cagrad,famo,seeds=5 --out=runs/fair_two

Most of the gains that are published for weighting methods vanish against tuned static weights (Kurin et al. 2022, arXiv
2201.04122; Xin et al. 2022, 2209.11379; Royer et al. 2023, 2311.04698). So every method is trained with several
learning rates, and beside them weights that never change, from one task nearly alone to the other. Epochs (by
`best.metric`) and rates (by Δp against the best single-task networks) are chosen on frames held out of the training set
(`data.validation = "holdout"`), so that `val` is a test set. The report has the Pareto plot, and the table of the runs
that were chosen.

Arguments: methods (default: ewdw, gwgl, uncertainty, cagrad, famo), an encoder, quick, seeds=N (default: 3). Not yet
run.
"""

from collections.abc import Callable

from configs import common
from mtlflax import weighting

METHODS = ("ewdw", "gwgl", "uncertainty", "cagrad", "famo")
FACTORS = (0.3, 1.0, 3.0)  # of the recipe's learning rate
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the weight of the first task


def sweep(add: Callable[..., None], arg: str = "") -> None:
    """Add methods, static weights and single tasks × learning rates × seeds."""
    args, seeds = common.parse_sweep(arg, *weighting.names(), seeds=3)
    chosen = tuple(part for part in args if part in weighting.names()) or METHODS
    rest = tuple(part for part in args if part not in weighting.names())
    base = 4e-3 if "quick" in rest else 1e-4
    kinds = {f"single_{task}": ("single_task", task) for task in ("segmentation", "depth")}
    kinds |= {name: ("weighting", name) for name in chosen}
    static = {f"static_{share:g}": (round(2 * share, 2), round(2 - 2 * share, 2)) for share in SHARES}
    for seed in seeds:
        for factor in FACTORS:
            values = {"seed": seed, "data.validation": "holdout", "optimizer.learning_rate": base * factor}
            for name, (file, kind) in kinds.items():
                add(f"{name}/rate{base * factor:g}/seed{seed}", common.command(file, kind, *rest), values)
            for name, weights in static.items():
                config = common.command("weighting", "constant", *rest)
                given = values | {"weighting.weights": weights}
                add(f"{name}/rate{base * factor:g}/seed{seed}", config, given)
