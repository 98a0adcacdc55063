"""From a config to objects: where nearly all of a config is read, for training (`build`) and prediction (`load`)."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mtlflax import data, models, registry, tasks, weighting
from mtlflax.data import field_json
from mtlflax.data.source import Field, Source
from mtlflax.data.transforms import Augment, Drawn
from mtlflax.errors import UserError, describe
from mtlflax.files import read_bytes
from mtlflax.models import pretrained
from mtlflax.models.network import Network
from mtlflax.run import config_ranges
from mtlflax.run import workdir as workdirs
from mtlflax.training import parallel
from mtlflax.training.accumulate import in_parts
from mtlflax.training.augment import augment
from mtlflax.training.gradients import Method, make_method
from mtlflax.training.step import TrainState, init_state, make_train_step

_NO_FIT = (AttributeError, KeyError, TypeError, ValueError)  # what objects raise over a config's values


@dataclasses.dataclass(frozen=True)
class Predictor:
    """What prediction needs."""

    config: ConfigDict  # the run's, resolved
    fields: Mapping[str, Field]  # what the samples of its data set hold
    tasks: tuple[tasks.Task, ...]  # in the order of the losses
    model: Network

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images it is trained on."""
        return (self.config.data.size[0], self.config.data.size[1])

    @functools.cached_property
    def variable_shapes(self) -> dict[str, Any]:
        """The shapes and dtypes of the network's variables, by tracing its `init`."""
        images = jax.ShapeDtypeStruct((1, *self.size, 3), np.float32)
        init = functools.partial(self.model.init, train=False)
        return dict(jax.eval_shape(init, jax.random.key(self.config.seed), images))


@dataclasses.dataclass(frozen=True)
class Experiment(Predictor):
    """A config, built: what training and evaluation share."""

    training: Source  # no frame is read yet, nor rendered
    evaluated: Mapping[str, Source]  # split → frames: "val", or "holdout", to choose the best on, and "val"
    augment: Augment  # what is done to each training sample
    steps_per_epoch: int  # frames that do not fill a last batch go to the next epoch
    total_steps: int
    schedule: optax.Schedule  # updates so far → learning rate
    optimizer: optax.GradientTransformation
    method: Method  # the weighting

    @property
    def facts(self) -> dict[str, Any]:
        """What a run records about its data, and what must not change when it is resumed."""
        sources = {"train": self.training, **self.evaluated}
        counts = {f"num_{split}": len(source) for split, source in sources.items()}
        return counts | {f"{split}_frames": data.describe(source) for split, source in sources.items()}

    @property
    def chosen_on(self) -> str:
        """The split that is evaluated during training, to choose the best checkpoint."""
        return next(iter(self.evaluated))

    @property
    def batch_fields(self) -> dict[str, Field]:
        """The fields that a batch holds: the image, and what the tasks read."""
        names = ["image", *(name for task in self.tasks for name in task.fields)]
        return {name: self.fields[name] for name in dict.fromkeys(names)}

    @property
    def train_fields(self) -> dict[str, Field]:
        """The fields that a training batch holds: `batch_fields`, and what is drawn for the step to augment by."""
        return self.batch_fields | ({"augment": Drawn()} if self.augment.device else {})

    def prepare_batch(self, batch: tasks.Batch) -> tasks.Batch:
        """Do to a training batch what the train step does first: augment it, if the loader has not."""
        return augment(batch, self.batch_fields) if self.augment.device else batch

    @property
    def evaluation_fields(self) -> dict[str, Field]:
        """The fields that a batch holds in evaluation: those of training, and what tasks are scored by."""
        fields = self.batch_fields
        for name in dict.fromkeys(name for task in self.tasks for name in task.scored_by):
            if all(source.fields.get(name) == self.fields[name] for source in self.evaluated.values()):
                fields.setdefault(name, self.fields[name])
        return fields

    def init(self, encoder: Any = None) -> TrainState:
        """Return the state at step 0: from scratch, or with the pretrained variables of an encoder."""
        made = (self.model, self.optimizer, self.method)
        return init_state(*made, num_tasks=len(self.tasks), size=self.size, seed=self.config.seed, encoder=encoder)

    def make_train_step(self, mesh: Mesh) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
        """Make the train step of global arrays (see `training.step.make_train_step`); it takes the state's memory."""
        config = self.config
        model = in_parts(self.model, config.accumulate)
        step = make_train_step(model, self.tasks, self.optimizer, self.method, self.prepare_batch, config.reduce_dtype)
        return parallel.map_step(step, mesh, via=config.parallel, donate_state=True)

    def steps(self, epochs: float) -> int:
        """Return a duration in steps, at least 1."""
        return max(1, round(epochs * self.steps_per_epoch))


def build(config: ConfigDict) -> Experiment:
    """Build what a config (see `configs/common.py`) names, and check all of it before any frame is read or rendered.

    UserError for a name, an option or a number that does not fit, or a data set that is not there.
    """
    config = resolve(config)
    try:
        config_ranges.check(config)
        training, evaluated = data.open_splits(config.data)
        network = _network(config, training)
        steps_per_epoch = max(1, len(training) // config.batch_size)
        total_steps = round(config.epochs * steps_per_epoch)
        if total_steps < 1:
            raise ValueError(f"epochs is {config.epochs}: less than one step")
        schedule = _schedule(config.optimizer, total_steps, steps_per_epoch)
        experiment = Experiment(
            **vars(network),
            training=training,
            evaluated=evaluated,
            augment=_augment(config.data.augment.to_dict(), network.fields),
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
            schedule=schedule,
            optimizer=_optimizer(config, schedule, network.model),
            method=_method(config.weighting.to_dict(), network.model, len(network.tasks), steps_per_epoch),
        )
        data.check_alike(training, evaluated["val"], experiment.batch_fields)
        for task in experiment.tasks:
            tasks.check(task, network.fields, experiment.size)
        config_ranges.check_evaluation(config, evaluated, experiment.tasks, experiment.fields)
        _check_shapes(experiment)
    except _NO_FIT as error:
        raise UserError(f"config: {describe(error)}") from error
    return experiment


def load(workdir: str | Path) -> Predictor:
    """Find a run's tasks and network again from what the run has recorded, without its data set.

    UserError if there is no run, or something that it names cannot be found any more.
    """
    record = workdirs.load(Path(workdir))
    try:
        predictor = _network(ConfigDict(record["config"]), field_json.from_json(record["fields"]))
        if min(predictor.size) < 1:
            raise ValueError(f"data.size is {predictor.size}: must be positive")
        _ = predictor.fields["image"], predictor.variable_shapes  # modules check their options when they are traced
    except UserError:
        raise
    except Exception as error:  # whatever flax and jax make of an edited number
        path = Path(workdir) / "config.json"
        raise UserError(f"cannot build the network that {path} describes: {describe(error)}") from error
    return predictor


def resolve(config: ConfigDict) -> ConfigDict:
    """Return a copy in which everything that a config may leave open is decided; UserError if its root is no data set.

    `data.name` and `data.root` become those of a data set, by `data.resolve`. `model.pretrained`, if it is "auto",
    becomes the hub's weights of the backbone on Cityscapes, else '' (from scratch); if a file, its absolute path.
    `model.start_from` becomes absolute. `losses.class_weights` becomes what is in its file, pairs of class and weight.
    `best.metric` becomes one of the split that is evaluated during training.
    """
    config = config.copy_and_resolve_references()
    try:
        name, root = data.resolve(config.data.name, config.data.root)
    except ValueError as error:
        raise UserError(f"config: data: {error}") from error
    config.data.name, config.data.root = name, str(root or "")
    if config.data.validation == "holdout" and config.best.metric.startswith("val/"):
        config.best.metric = config.best.metric.replace("val/", "holdout/", 1)
    if config.model.get("start_from"):
        config.model.start_from = str(Path(config.model.start_from).expanduser().absolute())
        if config.model.pretrained not in ("auto", ""):
            raise UserError("config: give model.pretrained or model.start_from, not both")
        config.model.pretrained = ""
    if config.model.pretrained == "auto":
        config.model.pretrained = pretrained.DEFAULTS.get(config.model.backbone, "") if name == "cityscapes" else ""
    elif config.model.pretrained and not pretrained.is_name(config.model.pretrained):
        config.model.pretrained = str(Path(config.model.pretrained).expanduser().absolute())
    if isinstance(file := config.losses.get("class_weights"), str) and file:
        with config.ignore_type():
            config.losses.class_weights = _class_weights(Path(file).expanduser())
    return config


def _class_weights(path: Path) -> tuple[tuple[str, float], ...]:
    """The weights in a JSON file, {class: weight}."""
    try:
        return tuple((str(name), float(weight)) for name, weight in json.loads(read_bytes(path)).items())
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"config: losses.class_weights: {path}: is no JSON object of numbers ({error})") from error


def open_encoder(config: ConfigDict) -> tuple[dict[str, Any] | None, str]:
    """Return the pretrained variables that a resolved config starts from, or None, and where they come from, in words.

    UserError if they cannot be read, or belong to another encoder.
    """
    source, backbone = config.model.pretrained, config.model.backbone
    if not source:
        return None, "from scratch"
    try:
        variables, origin = pretrained.load(source, backbone)
    except UserError as error:
        raise UserError(
            f"config: model.pretrained: {error}.\n"
            f"Give a file with a {backbone}'s weights (torchvision's, timm's or Hugging Face's; .pth, .safetensors or "
            ".npz) as --config.model.pretrained=FILE, or train from scratch with --config.model.pretrained=''"
        ) from error
    return variables, f"from {origin}"


def _network(config: ConfigDict, source: Source | Mapping[str, Field]) -> Predictor:
    fields = source if isinstance(source, Mapping) else source.fields
    chosen = tasks.from_config(config, fields, missing=getattr(source, "missing", {}))
    return Predictor(config, fields, chosen, _model(config.model.to_dict(), chosen))


def _augment(options: dict[str, Any], fields: Mapping[str, Field]) -> Augment:
    try:
        return Augment(fields=fields, **options)
    except TypeError as error:
        raise ValueError(f"data.augment: {error}") from error


def _check_shapes(experiment: Experiment) -> None:
    """Trace what is called first in a run: modules check their options only then."""
    config = experiment.config.model
    if registry.is_path(config.backbone):
        models.check_encoder(config.backbone)
    if registry.is_path(config.name):
        heads = {task.name: task.channels for task in experiment.tasks}
        models.check_network(experiment.model, config.name, heads, experiment.size, parallel.AXIS)
    jax.eval_shape(experiment.init)
    if experiment.config.batch_size == experiment.config.accumulate:
        models.check_single_frame(experiment.model, experiment.size)


def _model(options: dict[str, Any], chosen: tuple[tasks.Task, ...]) -> Network:
    name, pretrained = options.pop("name"), options.pop("pretrained")
    options.pop("start_from", None)
    options.pop("freeze", None)
    network = registry.find(name, models.MODELS, what="network")
    known = {field.name for field in dataclasses.fields(network)} if dataclasses.is_dataclass(network) else set(options)
    if surplus := options.keys() - known:  # only the name was changed
        raise ValueError(
            f"model.{min(surplus)} is no option of {name} (another network takes another config: "
            f"configs/weighting.py:METHOD,{name})"
        )
    heads = {task.name: task.channels for task in chosen}
    model = models.get(name, backbone=options.pop("backbone"), heads=heads, axis_name=parallel.AXIS, **options)
    if pretrained and not hasattr(model, "encoders"):
        raise ValueError(f"model.pretrained is {pretrained!r}, but {name} has no encoder to load weights for: give ''")
    return model


def _schedule(config: ConfigDict, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    if config.schedule == "polynomial":
        return optax.polynomial_schedule(config.learning_rate, 0.0, config.power, total_steps)
    if config.schedule == "steps":
        every = max(1, round(config.step_epochs * steps_per_epoch))
        return optax.exponential_decay(config.learning_rate, every, config.step_factor, staircase=True)
    raise ValueError(f"optimizer.schedule is {config.schedule!r}: choose polynomial or steps")


def _optimizer(whole: ConfigDict, schedule: optax.Schedule, model: Network) -> optax.GradientTransformation:
    config, freeze = whole.optimizer, whole.model.get("freeze", "")
    if config.name not in ("adam", "sgd"):
        raise ValueError(f"optimizer.name is {config.name!r}: choose adam or sgd")
    if freeze not in ("", "trunk"):
        raise ValueError(f"model.freeze is {freeze!r}: choose trunk, or ''")
    rule = optax.adam(schedule) if config.name == "adam" else optax.sgd(schedule, momentum=config.momentum)
    decayed = optax.chain(optax.add_decayed_weights(config.weight_decay), rule)
    if not freeze:
        return decayed

    def mask(params: Any) -> Any:
        return unflatten_dict({path: in_encoders(model, path) for path in flatten_dict(params, sep="/")}, sep="/")

    return optax.chain(decayed, optax.masked(optax.set_to_zero(), mask))


def in_encoders(model: Network, path: str) -> bool:
    """Whether a parameter is of a network's encoders; of one that names none, of what all tasks share."""
    encoders = getattr(model, "encoders", ())
    return any(path.startswith(f"{encoder}/") for encoder in encoders) if encoders else model.shared(path)


def _method(options: dict[str, Any], model: Network, num_tasks: int, steps_per_epoch: int) -> Method:
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
