"""The numbers and choices that a config may hold, whatever it trains."""

from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from mtlflax.training import parallel

_DTYPES = ("float32", "bfloat16")


def check(config: ConfigDict) -> None:
    """Raise ValueError, naming the key, for a number that no run can have."""
    least = {
        "batch_size": 1,
        "log_every": 1,
        "pictures": 0,
        "optimizer.power": 0,
        "optimizer.weight_decay": 0,
        "checkpoint.keep": 1,
        "data.num_threads": 0,
        "data.num_workers": 0,
        "data.prefetch": 1,
        "losses.auxiliary": 0,
    }
    if "streets" in config.data:
        least |= {"data.streets.train": 1, "data.streets.val": 1, "data.streets.seed": 0}
    for key, bound in least.items():
        value = config_path.get_value(key, config)
        if not bound <= value < float("inf"):
            raise ValueError(f"{key} is {value}: must be at least {bound}")
    for key in ("epochs", "evaluate_every", "checkpoint.every", "optimizer.learning_rate"):
        value = config_path.get_value(key, config)
        if not 0 < value < float("inf"):
            raise ValueError(f"{key} is {value}: must be positive")
    if not 0 <= config.seed < 2**31:
        raise ValueError(f"seed is {config.seed}: must be at least 0 and below {2**31}")
    size = config.data.size
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"data.size is {tuple(size)}: give one (height, width)")
    if config.model.get("dtype", "float32") not in _DTYPES:
        raise ValueError(f"model.dtype is {config.model.dtype!r}: choose {' or '.join(_DTYPES)}")
    if config.best.mode not in ("max", "min"):
        raise ValueError(f"best.mode is {config.best.mode!r}: choose max or min")
    if config.parallel not in parallel.MAPPINGS:
        raise ValueError(f"parallel is {config.parallel!r}: choose {' or '.join(parallel.MAPPINGS)}")
