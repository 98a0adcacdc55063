"""A configuration, built: the tasks, the network, the optimiser and the weighting that it names."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from mtlflax import models, registry, tasks, weighting
from mtlflax.errors import UserError
from mtlflax.training import parallel
from mtlflax.training.gradients import Method, make_method
from mtlflax.training.step import TrainState, init_state

_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What training, evaluation and prediction share.

    Attributes:
        tasks: in the order of the losses.
        model: the network.
        steps_per_epoch: updates in an epoch; frames that do not fill a last batch go to the next epoch.
        total_steps: updates in all.
        schedule: updates so far → learning rate.
        optimizer: of the parameters.
        method: the weighting.
        size: (H, W) of the images.
        seed: of the parameters.
    """

    tasks: tuple[tasks.Task, ...]
    model: Any
    steps_per_epoch: int
    total_steps: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    method: Method
    size: tuple[int, int]
    seed: int

    def init(self, encoder: Any = None) -> TrainState:
        """The state at step 0: from scratch, or with the pretrained variables of an encoder."""
        return init_state(
            self.model,
            self.optimizer,
            self.method,
            num_tasks=len(self.tasks),
            size=self.size,
            seed=self.seed,
            encoder=encoder,
        )

    def steps(self, epochs: float) -> int:
        """A duration in steps, at least 1."""
        return max(1, round(epochs * self.steps_per_epoch))


def build(config: ConfigDict, num_frames: int) -> Experiment:
    """Builds what a configuration names.

    Args:
        config: a run's.
        num_frames: in the training set.

    Raises:
        UserError: a name, an option or a number that does not fit.
    """
    try:
        _check_ranges(config)
        chosen = tasks.from_config(config)
        if config.parallel not in parallel.MAPPINGS:
            raise ValueError(f"parallel is {config.parallel!r}: choose {' or '.join(parallel.MAPPINGS)}")
        steps_per_epoch = max(1, num_frames // config.batch_size)
        total_steps = round(config.epochs * steps_per_epoch)
        if total_steps < 1:
            raise ValueError(f"epochs is {config.epochs}: less than one step")
        schedule = optax.polynomial_schedule(config.optimizer.learning_rate, 0.0, config.optimizer.power, total_steps)
        model = _model(config.model.to_dict(), chosen)
        experiment = Experiment(
            tasks=chosen,
            model=model,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
            schedule=schedule,
            optimizer=_optimizer(config.optimizer, schedule),
            method=_method(config.weighting.to_dict(), model, len(chosen), steps_per_epoch),
            size=(config.data.size[0], config.data.size[1]),
            seed=config.seed,
        )
        metrics = [f"val/{task.name}/{name}" for task in chosen for name in _metric_names(task)]
        if config.best.metric not in metrics:
            raise ValueError(f"best.metric is {config.best.metric!r}: choose one of {', '.join(metrics)}")
        jax.eval_shape(experiment.init)  # modules check their options when they are first called
        if config.batch_size == 1:  # a map of one pixel cannot be normalised: then training says so, here
            images = jax.ShapeDtypeStruct((1, *experiment.size, 3), np.float32)
            alone = model.clone(axis_name=None)
            variables = jax.eval_shape(alone.init, jax.random.key(0), images)
            train = functools.partial(alone.apply, train=True, mutable=["batch_stats"])
            jax.eval_shape(train, variables, images)
    except (ValueError, TypeError) as error:
        raise UserError(f"configuration: {error}") from error
    return experiment


def _check_ranges(config: ConfigDict) -> None:
    """Raises ValueError, naming the key, for a number that no run can have."""
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
        "data.streets.train": 1,
        "data.streets.val": 1,
        "data.streets.seed": 0,
    }
    for key, bound in least.items():
        value = config_path.get_value(key, config)
        if not bound <= value < float("inf"):
            raise ValueError(f"{key} is {value}: give a number from {bound} on")
    for key in ("epochs", "evaluate_every", "checkpoint.every", "optimizer.learning_rate"):
        value = config_path.get_value(key, config)
        if not 0 < value < float("inf"):
            raise ValueError(f"{key} is {value}: give a positive number")
    if not 0 <= config.seed < 2**31:
        raise ValueError(f"seed is {config.seed}: give a number from 0 on, below {2**31}")
    size = config.data.size
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"data.size is {tuple(size)}: give (height, width), once")
    if config.model.dtype not in _DTYPES:
        raise ValueError(f"model.dtype is {config.model.dtype!r}: choose {' or '.join(_DTYPES)}")
    if config.best.mode not in ("max", "min"):
        raise ValueError(f"best.mode is {config.best.mode!r}: choose max or min")


def _metric_names(task: tasks.Task) -> list[str]:
    """All metrics that a task can have: those of sums in which everything occurs once."""
    pixels = jax.ShapeDtypeStruct((1, 2, 2, task.channels), jnp.float32)
    batch = {
        "segmentation": jax.ShapeDtypeStruct((1, 2, 2), jnp.uint8),
        "depth": jax.ShapeDtypeStruct((1, 2, 2, 1), jnp.float32),
        "focal_baseline": jax.ShapeDtypeStruct((1,), jnp.float32),
        "mask": jax.ShapeDtypeStruct((1,), jnp.float32),
    }
    sums = jax.eval_shape(task.sums, pixels, batch)
    return list(task.metrics(jax.tree.map(lambda x: np.ones(x.shape, x.dtype), sums)))


def _model(options: dict[str, Any], chosen: tuple[tasks.Task, ...]) -> Any:
    name, pretrained = options.pop("name"), options.pop("pretrained")
    known = {field.name for field in dataclasses.fields(models.MODELS[name])} if name in models.MODELS else set(options)
    if surplus := options.keys() - known:  # only the name was changed
        raise ValueError(
            f"model.{min(surplus)} is no option of {name} (another network takes another config: "
            f"configs/{name}.py, or configs/weighting.py:METHOD,{name})"
        )
    model = models.get(
        name,
        backbone=options.pop("backbone"),
        heads={task.name: task.channels for task in chosen},
        axis_name=parallel.AXIS,
        **options,
    )
    if pretrained and not hasattr(model, "encoders"):
        raise ValueError(f"model.pretrained is {pretrained!r}, but {name} has no encoder to load weights for: give ''")
    return model


def _optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    if config.name == "adam":
        rule = optax.adam(schedule)
    elif config.name == "sgd":
        rule = optax.sgd(schedule, momentum=config.momentum)
    else:
        raise ValueError(f"optimizer.name is {config.name!r}: choose adam or sgd")
    return optax.chain(optax.add_decayed_weights(config.weight_decay), rule)


def _method(options: dict[str, Any], model: Any, num_tasks: int, steps_per_epoch: int) -> Method:
    """The weighting; a method that counts epochs is told how long one is."""
    name = options.pop("name")
    factory = weighting.find(registry.find(name, weighting.METHODS, what="weighting"))
    known = weighting.options(factory)
    if surplus := options.keys() - known.keys():  # only the name was changed
        raise ValueError(
            f"weighting.{min(surplus)} is no option of {name} (another method takes another config: "
            f"configs/weighting.py:{name})"
        )
    if "steps_per_epoch" in known and options.get("steps_per_epoch") is None:
        options["steps_per_epoch"] = steps_per_epoch
    return make_method(factory, model, num_tasks=num_tasks, **options)
