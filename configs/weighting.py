"""Any weighting method, named by an argument, with the paper's multi-task U-Net or any other network, if one is named.

python -m mtlflax.main --config=configs/weighting.py:cagrad [,mtan] [,resnet18|resnet50|densenet121] [,quick]

The method's options are keys: --config.weighting.alpha=0.4. `mtlflax/weighting/README.md` lists methods and options.
"""

from types import NoneType
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common
from mtlflax import models, weighting
from mtlflax.errors import UserError


def get_config(arg: str | None = None) -> ConfigDict:
    """Build the config for `--config=configs/weighting.py:ARG`; ARG names the method, and may name a network."""
    args = common.parse(arg, *weighting.names(), *models.MODELS)
    chosen = [name for name in weighting.names() if name in args]
    if len(chosen) != 1:
        raise UserError(f"configs/weighting.py: give one method, one of {', '.join(weighting.names())}")
    return common.get_config(options(chosen[0]), args, model=common.network(args))


def options(name: str) -> dict[str, Any]:
    """Return a method's options with their defaults, as `config.weighting` has them.

    `weighting.options` has the same; an option that defaults to None becomes a placeholder of its type.
    """
    chosen = {"name": name, **weighting.options(name)}
    for key, parameter in weighting.spec.parameters(weighting.find(name)).items():
        kinds = [kind for kind in get_args(parameter.annotation) if kind is not NoneType]
        if parameter.default is None and kinds:
            chosen[key] = placeholder(tuple if get_origin(kinds[0]) else kinds[0])
    return chosen
