"""The paper's recipe, and the arguments that every config file takes.

Mahyoub et al. 2023, "Semantic Segmentation and Depth Estimation of Urban Road Scene Images using Multi-Task Networks":
Adam 1e-4 with polynomial decay 0.9, batch 8, 80 to 100 epochs of which the best counts, ImageNet encoders. What the
paper leaves open is our reading: 128×256, 19 classes, depth as 16-bit disparity / 65535, cross-entropy and L1, and
which ImageNet weights: torchvision's first. On the embedded data set training is from scratch.
"""

import dataclasses
import difflib
from typing import Any

from ml_collections import ConfigDict

from mtlflax import models, registry
from mtlflax.errors import UserError

BACKBONES = ("resnet18", "resnet50", "densenet121")
# Attributes of a network that are set elsewhere.
NOT_OPTIONS = ("backbone", "heads", "axis_name", "parent", "name")


def get_config(weighting: dict, args: tuple[str, ...] = (), *, model: str = "unet") -> ConfigDict:
    """Return the recipe with a weighting, the arguments from `parse`, and a network."""
    config = ConfigDict()
    config.seed = 0
    config.tasks = ("segmentation", "depth")
    config.batch_size = 8  # over all devices
    config.accumulate = 1  # parts that a batch is seen in, one after another: the memory of one part
    config.epochs = 100.0
    config.parallel = "shard_map"  # or "pmap"
    config.reduce_dtype = "float32"  # what gradients are sent in between devices; or "bfloat16"

    config.data = ConfigDict()
    config.data.name = "auto"  # cityscapes where there is a root, else streets; or "module:function"
    config.data.root = ""  # '' = the environment variable CITYSCAPES_DATASET
    config.data.size = (128, 256)
    config.data.classes = 19  # or 7, the categories, or 34, all label ids
    config.data.depth = "normalised_disparity"  # or disparity, inverse_metres, metres, millimetres
    # What the best epoch is chosen on: "val", as in the paper, or "holdout", a fixed part of the training frames, so
    # that nothing is chosen on val.
    config.data.validation = "val"
    config.data.holdout = 0.2  # the share that is held out
    # A cache at data.size: "auto", or a folder made by python -m mtlflax.data.records; '' = read the files each time.
    config.data.cache = ""
    config.data.on_error = "raise"  # at a frame that cannot be read, or "skip": name it and leave it out
    config.data.num_threads = 4  # that read pictures, per process
    config.data.num_workers = 0  # processes that read, if threads are not enough
    config.data.prefetch = 4  # batches held ready
    config.data.balance = 0.0  # or a temperature, such as 0.01: frames with rare classes come more often
    # Training frames: a split, "train_extra" included; a text file that names some of them; fine or coarse labels
    # ("gtCoarse"); whether samples have instance ids, for a task of yours.
    config.data.cityscapes = ConfigDict({"train": "train", "frames": "", "annotations": "gtFine", "instances": False})
    config.data.streets = ConfigDict({"train": 2975, "val": 500, "seed": 0})  # the embedded data set
    config.data.augment = ConfigDict(
        {
            "scales": (1.0, 1.2, 1.5),
            "flip": 0.5,
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.2,
            "hue": 0.02,
            "device": False,  # or in the train step, if the host is too slow
        }
    )

    # Pretrained: a file (.pth, .safetensors, .npz), a name on the Hugging Face hub (timm/resnet50.tv_in1k), or '' =
    # from scratch; auto = the hub's ImageNet weights of the backbone on Cityscapes, from scratch on streets.
    # Start from: another run's workdir, whose trained trunk and all that fits of the rest this run begins with. Freeze:
    # "trunk" = its parameters stay as they are (BatchNorm's statistics follow the data all the same).
    config.model = ConfigDict(
        {"name": model, "backbone": "resnet50", "pretrained": "auto", "start_from": "", "freeze": ""}
    )
    config.model.update(options(model))

    # Auxiliary: the weight of the losses of auxiliary predictions, in networks that have some. Class weights: a JSON
    # file, class → weight, as python -m mtlflax.data.statistics writes it; '' = none.
    config.losses = ConfigDict({"segmentation": "cross_entropy", "depth": "l1", "class_weights": "", "auxiliary": 1.0})
    config.weighting = ConfigDict(weighting)
    config.optimizer = ConfigDict(
        {
            "name": "adam",  # or sgd
            "learning_rate": 1e-4,
            "schedule": "polynomial",  # to 0 over the run, or "steps"
            "power": 0.9,  # of the polynomial decay
            "step_epochs": 100.0,  # of "steps": the rate is multiplied by step_factor after each of so many epochs
            "step_factor": 0.5,
            "momentum": 0.9,  # of sgd
            "weight_decay": 0.0,
        }
    )

    config.log_every = 20  # steps
    config.evaluate_every = 1.0  # epochs; a checkpoint each time
    # The size at which predictions are scored: "trained", data.size, or "full", the labels' own. A folder for the
    # predictions as label ids, in the format of Cityscapes' evaluator, with --mode=evaluate; '' = none.
    config.evaluate = ConfigDict({"size": "trained", "export": ""})
    # Steps between measurements of the task gradients' lengths and angles, whatever the weighting; 0 = none.
    config.diagnostics = ConfigDict({"every": 0})
    config.writers = ()  # trackers besides TensorBoard: wandb, mlflow, trackio, or your own "module:function"
    config.pictures = 4  # frames drawn at an evaluation
    config.checkpoint = ConfigDict({"every": 1.0, "keep": 2})  # epochs; how many of the latest to keep
    # The best epoch of this range counts, and its checkpoint is kept besides the latest.
    config.best = ConfigDict({"metric": "val/segmentation/miou", "mode": "max", "from_epoch": 80.0})

    backbones = [arg for arg in args if arg in BACKBONES]
    if backbones:
        config.model.backbone = backbones[0]
    if "quick" in args:
        _quick(config, keep_backbone=bool(backbones))
    config.lock()  # a typo in a config file of yours is an error
    config.data.unlock()  # a data set of yours may have keys of its own
    return config


def options(model: str) -> dict[str, Any]:
    """Return a network's options and their defaults, as `config.model` has them: its attributes.

    Raises:
        UserError: there is no such network, or it is no Flax module whose attributes have defaults.
    """
    found = registry.find(model, models.MODELS, what="network")
    if not dataclasses.is_dataclass(found):
        raise UserError(f"network {model!r} is a {type(found).__name__}: name a Flax module (a class)")
    fields = {field.name: field.default for field in dataclasses.fields(found) if field.name not in NOT_OPTIONS}
    if missing := [name for name, default in fields.items() if default is dataclasses.MISSING]:
        raise UserError(f"network {model!r}: give its attribute {missing[0]} a default, for the config to hold")
    return fields | ({"dtype": "float32"} if "dtype" in fields else {})  # or bfloat16; parameters stay float32


def network(args: tuple[str, ...]) -> str:
    """Return the network that the arguments name: a built-in one, or a "package.module:name"; by default the U-Net.

    Raises:
        UserError: they name several.
    """
    named = [arg for arg in args if arg in models.MODELS or registry.is_path(arg)]
    if len(named) > 1:
        raise UserError(f"config arguments {', '.join(args)}: give one network, not {' and '.join(named)}")
    return named[0] if named else "unet"


def _quick(config: ConfigDict, *, keep_backbone: bool) -> None:
    """Make it minutes on two CPU cores, with nothing to download: a small network, a few frames of the embedded set."""
    config.data.name = "streets"
    config.data.size = (96, 192)  # instead of 128×256
    config.data.streets.train = 400
    config.data.streets.val = 100
    config.data.num_threads = 1
    if not keep_backbone:
        config.model.backbone = "resnet18"
    config.model.pretrained = ""
    small = config.model if config.model.name in models.MODELS else {}  # a network of yours keeps its options
    if "decoder_channels" in small:  # the U-Net's decoder
        config.model.decoder_channels = (128, 64, 48, 32, 32)
        config.model.head_stride = 4
    if "aspp_channels" in small:  # on a map of 6×12 pixels
        config.model.output_stride = 16
        config.model.atrous_rates = (1, 2, 4)
        config.model.aspp_channels = 128
    if "width" in small:
        config.model.width = 64
    # In 400 steps there is no time for rare classes to be found by cross-entropy, or for augmentation to pay.
    config.losses.segmentation = "dice"
    config.data.augment.update(scales=(1.0,), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    config.batch_size = 4
    config.optimizer.learning_rate = 4e-3
    config.epochs = 4.0
    config.evaluate_every = 2.0
    config.best.from_epoch = 0.0


def parse(arg: str | None, *own: str) -> tuple[str, ...]:
    """Split a config file's argument, `quick,resnet50`, and check its parts.

    Args:
        arg: what stands after the colon of `--config=FILE:ARG`.
        *own: the arguments that this config takes besides the common ones; where it takes any, it also takes
            "package.module:name".

    Raises:
        UserError: an unknown part, one given twice, or two encoders.
    """
    args = tuple(part.strip() for part in (arg or "").split(",") if part.strip())
    known = ("quick", *BACKBONES, *own)
    for part in args:
        if part not in known and not (own and registry.is_path(part)):
            close = difflib.get_close_matches(part, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UserError(f"unknown config argument {part!r}{hint}: choose from {', '.join(known)}, joined by commas")
        if args.count(part) > 1:
            raise UserError(f"config argument {part!r} is given twice")
    if sum(part in BACKBONES for part in args) > 1:
        raise UserError(f"config arguments {', '.join(args)}: give one encoder")
    return args


def parse_sweep(arg: str, *own: str, seeds: int = 1) -> tuple[tuple[str, ...], range]:
    """Split a sweep's argument, `quick,seeds=3`, into those of its configs, as `parse` does, and its seeds.

    UserError for an unknown part, or a number of seeds below 1.
    """
    parts = [part.strip() for part in arg.split(",") if part.strip()]
    counts = [part.removeprefix("seeds=") for part in parts if part.startswith("seeds=")]
    if any(not count.isdecimal() or int(count) < 1 for count in counts):
        raise UserError(f"seeds={counts[-1]}: give a whole number of at least 1")
    rest = parse(",".join(part for part in parts if not part.startswith("seeds=")), *own)
    return rest, range(int(counts[-1]) if counts else seeds)


def command(file: str, *args: str) -> str:
    """Return what --config takes: the name of a file here, and arguments.

    >>> command("weighting", "famo", "quick")
    'configs/weighting.py:famo,quick'
    """
    return f"configs/{file}.py" + (f":{','.join(args)}" if args else "")
