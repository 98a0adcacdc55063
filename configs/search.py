"""A search for the learning rate and DWA's temperature, chosen on frames held out.

    python launch/search.py configs/search.py:quick --out=runs/search_quick --trials=20

Arguments are those of configs/ewdw.py. Not yet run to its end.
"""

from typing import Any

from configs import common


def search(trial: Any, arg: str = "") -> tuple[str, dict[str, Any]]:
    """Return a trial's config and overrides; `trial` is an `optuna.Trial`."""
    return common.command("ewdw", *common.parse(arg)), {
        "data.validation": "holdout",
        "optimizer.learning_rate": trial.suggest_float("learning_rate", 1e-5, 3e-2, log=True),
        "weighting.temperature": trial.suggest_float("temperature", 0.5, 8.0, log=True),
    }
