"""Any weighting method, with the paper's multi-task U-Net or any other network.

python -m mtlflax.main --config=configs/weighting.py:cagrad
python -m mtlflax.main --config=configs/weighting.py:cagrad,mtan,quick

The method's options are keys: --config.weighting.alpha=0.4. `mtlflax/weighting/README.md` lists methods and options.
"""

from types import NoneType
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common
from mtlflax import models, registry, weighting
from mtlflax.errors import UserError


def get_config(arg: str | None = None) -> ConfigDict:
    """Build the config for `--config=configs/weighting.py:ARG`; ARG names the method, and may name a network.

    Either may be "package.module:name"; a factory with a weighting spec is the method.
    """
    args = common.parse(arg, *weighting.names(), *models.MODELS)
    own = {part: registry.find(part, {}, what="config argument") for part in args if registry.is_path(part)}
    methods = [part for part in args if part in weighting.names() or hasattr(own.get(part), "spec")]
    methods += [part for part, found in own.items() if part not in methods and not isinstance(found, type)]
    if len(methods) != 1:
        raise UserError(f"configs/weighting.py: give one method, one of {', '.join(weighting.names())}")
    rest = tuple(part for part in args if part not in methods)
    return common.get_config(options(methods[0]), rest, model=common.network(rest))


def options(name: str) -> dict[str, Any]:
    """Return a method's options with their defaults, as `config.weighting` has them.

    `weighting.options` has the same; an option that defaults to None becomes a placeholder of its type.
    """
    try:
        factory = weighting.find(registry.find(name, weighting.METHODS, what="weighting"))
        chosen = {"name": name, **weighting.options(factory)}
    except ValueError as error:  # no decorator, an option without a default
        raise UserError(str(error)) from error
    for key, parameter in weighting.spec.parameters(factory).items():
        kinds = [kind for kind in get_args(parameter.annotation) if kind is not NoneType]
        if parameter.default is None and kinds:
            chosen[key] = placeholder(tuple if get_origin(kinds[0]) else kinds[0])
    return chosen
