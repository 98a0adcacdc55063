"""Every network with one weighting method.

    python launch/sweep.py configs/all_networks.py --out=runs/all_networks
    python launch/sweep.py configs/all_networks.py:cagrad,quick --out=runs/all_networks_quick

Arguments: a method (default: equal), an encoder, quick, seeds=N (default: 1). Not yet trained
as a whole; tests/benchmarks/README.md has how fast they predict.
"""

from collections.abc import Callable

from configs import common
from mtlflax import models, weighting
from mtlflax.errors import UserError


def sweep(add: Callable[..., None], arg: str = "") -> None:
    """Add a run per network and seed."""
    args, seeds = common.parse_sweep(arg, *weighting.names())
    methods = [part for part in args if part in weighting.names()] or ["equal"]
    if len(methods) > 1:
        raise UserError(f"configs/all_networks.py: give one method, not {' and '.join(methods)}")
    rest = tuple(part for part in args if part not in weighting.names())
    for seed in seeds:
        for network in models.MODELS:
            add(f"{network}/seed{seed}", common.command("weighting", methods[0], network, *rest), {"seed": seed})
