"""Any weighting method, named by an argument, with the paper's multi-task U-Net or any other network, if one is named.

python -m mtlflax.main --config=configs/weighting.py:cagrad [,mtan] [,resnet18|resnet50|densenet121] [,quick]

The method's options are keys: --config.weighting.alpha=0.4. `mtlflax/weighting/README.md` lists methods and options.
"""

import inspect
from types import NoneType
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common
from mtlflax import models, weighting
from mtlflax.errors import UserError
from mtlflax.training.method import SAMPLED

# What the loop knows better than a command line.
NOT_OPTIONS = ("num_tasks", "shared", "axis_name", "optimizer", "parameters", "steps_per_epoch")
# Of the Adam that learns a method's own state; the factories' defaults.
LEARNING_RATES = {"famo": 0.025, "gradnorm": 0.025, "gwgl": 0.025, "imtl_l": 1e-4, "uncertainty": 1e-4}


def get_config(arg: str | None = None) -> ConfigDict:
    """Called by `--config=configs/weighting.py:ARG`; ARG names the method, and may name a network."""
    args = common.parse(arg, *weighting.names(), *models.MODELS)
    chosen = [name for name in weighting.names() if name in args]
    if len(chosen) != 1:
        raise UserError(f"configs/weighting.py: give one method, one of {', '.join(weighting.names())}")
    return common.get_config(options(chosen[0]), args, model=common.network(args))


def options(name: str) -> dict:
    """A method's options and their defaults, as `config.weighting` has them."""
    factory = (weighting.loss_balancing.METHODS | weighting.gradient_balancing.METHODS)[name]
    chosen: dict[str, Any] = {"name": name}
    for key, parameter in inspect.signature(factory, eval_str=True).parameters.items():
        if key not in NOT_OPTIONS:
            chosen[key] = parameter.default
            kinds = [kind for kind in get_args(parameter.annotation) if kind is not NoneType]
            if parameter.default is None and kinds:  # a command line must know the type of what it may set
                chosen[key] = placeholder(tuple if get_origin(kinds[0]) else kinds[0])
    if name == "constant":
        chosen["weights"] = (1.0, 1.0)
    if name in LEARNING_RATES:
        chosen["learning_rate"] = LEARNING_RATES[name]
    if name in weighting.gradient_balancing.METHODS:
        chosen["level"] = "parameters"  # or representation: on the gradients of the shared features
        if name in SAMPLED:
            chosen["independent"] = True  # samples of two halves of the batch; False: the whole batch's, biased
    elif "gradient_norms" in weighting.loss_balancing.needs(name):
        chosen["norms_of"] = "own" if name == "adamt" else "last_shared"  # or shared
    return chosen
