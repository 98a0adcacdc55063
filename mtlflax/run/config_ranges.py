"""The numbers and choices that a config may hold, whatever it trains."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from mtlflax.data.full_truth import with_full_truth
from mtlflax.data.source import Field, Source
from mtlflax.errors import UserError
from mtlflax.run import official, writers
from mtlflax.tasks import Task
from mtlflax.training import parallel

_AT_LEAST_0 = ["pictures", "optimizer.power", "optimizer.weight_decay", "losses.auxiliary"]
_AT_LEAST_0 += ["data.num_threads", "data.num_workers", "data.streets.seed", "diagnostics.every"]
_AT_LEAST_1 = ["batch_size", "accumulate", "log_every", "checkpoint.keep"]
_AT_LEAST_1 += ["data.prefetch", "data.streets.train", "data.streets.val"]
_POSITIVE = ("epochs", "evaluate_every", "checkpoint.every", "optimizer.learning_rate")


def check(config: ConfigDict) -> None:
    """Raise ValueError, naming the key, for a number or a choice that no run can have; UserError as `writers.check`."""
    writers.check(config.writers)
    least = dict.fromkeys(_AT_LEAST_0, 0) | dict.fromkeys(_AT_LEAST_1, 1)
    for key in (*least, *_POSITIVE):
        if key.startswith("data.streets.") and "streets" not in config.data:
            continue
        value = config_path.get_value(key, config)
        if key in least and not least[key] <= value < float("inf"):
            raise ValueError(f"{key} is {value}: must be at least {least[key]}")
        if key in _POSITIVE and not 0 < value < float("inf"):
            raise ValueError(f"{key} is {value}: must be positive")
    if not 0 <= config.seed < 2**31:
        raise ValueError(f"seed is {config.seed}: must be at least 0 and below {2**31}")
    if config.diagnostics.every and len(config.tasks) < 2:
        raise ValueError(f"diagnostics.every is {config.diagnostics.every}: with one task there is nothing to compare")
    size = config.data.size
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"data.size is {tuple(size)}: must be (height, width), two whole numbers of at least 1")
    for key, value, choices in (
        ("model.dtype", config.model.get("dtype", "float32"), ("float32", "bfloat16")),
        ("best.mode", config.best.mode, ("max", "min")),
        ("parallel", config.parallel, parallel.MAPPINGS),
        ("reduce_dtype", config.reduce_dtype, ("float32", "bfloat16")),
        ("data.validation", config.data.validation, ("val", "holdout")),
        ("data.on_error", config.data.on_error, ("raise", "skip")),
        ("evaluate.size", config.evaluate.size, ("trained", "full")),
    ):
        if value not in choices:
            raise ValueError(f"{key} is {value!r}: choose {' or '.join(choices)}")


def check_evaluation(
    config: ConfigDict, evaluated: Mapping[str, Source], tasks: Sequence[Task], fields: Mapping[str, Field]
) -> None:
    """Raise an error if nothing can be chosen by `best`, or the splits not be evaluated as `evaluate` has it.

    Raises:
        ValueError: `best.metric` is none of the first split's, or `best.mode` not the direction of what is better.
        UserError: there is no ground truth at full size, or the official format cannot hold what is predicted.
    """
    _check_best(config.best, next(iter(evaluated)), tasks, fields)
    if config.evaluate.size == "full" and not all(with_full_truth(source) for source in evaluated.values()):
        raise UserError(
            f"config: evaluate.size is 'full', but the data set {config.data.name} has its truth at data.size alone "
            "(it lacks `with_full_truth`, see mtlflax.data.source): give 'trained'"
        )
    if config.evaluate.export:
        official.task(tasks, fields)


def _check_best(best: ConfigDict, split: str, tasks: Iterable[Task], fields: Mapping[str, Field]) -> None:
    known = {f"{split}/{task.name}/{name}": (task, name) for task in tasks for name in task.metric_names(fields)}
    if best.metric not in known:
        close = difflib.get_close_matches(str(best.metric), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        # Of classes and ranges there are dozens: iou/road, iou/car, ... are listed as one.
        groups = dict.fromkeys(f"{path.rpartition('/')[0]}/..." if "/" in of[1] else path for path, of in known.items())
        raise ValueError(f"best.metric is {best.metric!r}{hint}: choose (with best.mode) from {', '.join(groups)}")
    task, name = known[best.metric]
    if task.minimized is not None:
        mode, which = ("min", "less") if task.minimized(name) else ("max", "more")
        if best.mode != mode:
            raise ValueError(f"best.mode is {best.mode!r}, but {which} {name} is better: give {mode!r}")
