"""A run's configuration, resolved: which data set and which weights it means, opened, and described in words."""

import hashlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mtlflax import data
from mtlflax.data.transforms import Augment
from mtlflax.errors import UserError
from mtlflax.models import pretrained


def resolve(config: ConfigDict) -> ConfigDict:
    """A copy in which what may be left open is decided.

    `data.name` and `data.root` become those of a data set, by `data.resolve`. `model.pretrained`, if it is "auto",
    becomes the hub's weights of the backbone, or, on `streets`, '': from scratch; if it is a file, its absolute path.

    Raises:
        UserError: the root names no data set.
    """
    config = config.copy_and_resolve_references()
    try:
        name, root = data.resolve(config.data.name, config.data.root)
    except ValueError as error:
        raise UserError(f"configuration: data: {error}") from error
    config.data.name, config.data.root = name, str(root or "")
    if config.model.pretrained == "auto":
        config.model.pretrained = "" if name == "streets" else pretrained.DEFAULTS.get(config.model.backbone, "")
    elif config.model.pretrained and not pretrained.is_name(config.model.pretrained):
        config.model.pretrained = str(Path(config.model.pretrained).expanduser().absolute())
    return config


def open_data(config: ConfigDict, split: str) -> Any:
    """The source of a resolved configuration's data set.

    Raises:
        UserError: files or options that do not fit.
    """
    options: dict[str, Any] = {}
    if config.data.name == "streets":
        options = {"length": config.data.streets[split], "seed": config.data.streets.seed}
    try:
        return data.get(
            config.data.name,
            split,
            root=config.data.root or None,
            size=tuple(config.data.size),
            depth=config.data.depth,
            classes=config.data.classes,
            **options,
        )
    except ValueError as error:
        raise UserError(f"configuration: data: {error}") from error


def open_encoder(config: ConfigDict) -> tuple[dict[str, Any] | None, str]:
    """The pretrained variables that a resolved configuration starts from, or None, and in words where they are from.

    Raises:
        UserError: they cannot be had, or belong to another encoder.
    """
    source, backbone = config.model.pretrained, config.model.backbone
    if not source:
        return None, "from scratch"
    try:
        variables, origin = pretrained.load(source, backbone)
    except UserError as error:
        raise UserError(
            f"configuration: model.pretrained: {error}.\n"
            f"Give a file with a {backbone}'s weights (torchvision's, timm's or Hugging Face's; .pth, .safetensors or "
            ".npz) as --config.model.pretrained=FILE, or train from scratch with --config.model.pretrained=''"
        ) from error
    return variables, f"from {origin}"


def augmentation(config: ConfigDict) -> Augment:
    """The augmentation of the training frames.

    Raises:
        UserError: a value that makes no sense.
    """
    try:
        return Augment(depth=config.data.depth, **config.data.augment.to_dict())
    except (TypeError, ValueError) as error:
        raise UserError(f"configuration: data.augment: {error}") from error


def describe_frames(source: Any) -> str:
    """Tells a source's frames from others, wherever they lie: their number, the first, the last, a digest of all names.

    It goes into `config.json` as a fact of `runs.record`. What is in the files is not looked at: it would take minutes.
    """
    digest = hashlib.sha256("\n".join(source.names).encode()).hexdigest()[:12]
    return f"{len(source.names)} frames, {source.names[0]} to {source.names[-1]}, {digest}"


def describe_data(config: ConfigDict, *, asked_for: bool) -> str:
    """Says which data set a resolved configuration has, so that nobody takes one for the other.

    Args:
        config: resolved.
        asked_for: whether it names the data set, which was found otherwise.
    """
    if config.data.name == "streets":
        how = "For Cityscapes set CITYSCAPES_DATASET or --config.data.root to the folder of leftImg8bit, gtFine, …"
        if asked_for:
            how = "The configuration asks for it: data.name is streets (as with the argument quick)."
        rule = "=" * 110
        return f"{rule}\nDATA: streets, the embedded data set of rendered scenes: NOT Cityscapes.\n      {how}\n{rule}"
    return f"DATA: {config.data.name} at {config.data.root}, read at {tuple(config.data.size)}"


def check_batch_size(config: ConfigDict, num_devices: int) -> None:
    """The batch must divide among the devices.

    Raises:
        UserError: it does not.
    """
    if config.batch_size < 1 or config.batch_size % num_devices:
        raise UserError(
            f"config.batch_size is {config.batch_size}: give a positive multiple of {num_devices}, that of the devices"
        )
