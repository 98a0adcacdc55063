"""A run's configuration: resolved to a data set, checked, recorded in the workdir, compared with what is there."""

import fcntl
import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mtlflax import data
from mtlflax.data.transforms import Augment
from mtlflax.errors import UserError
from mtlflax.models import pretrained
from mtlflax.writers import plain_errors, write_json

# What may differ between the processes of one run: it changes no number.
_FREE = ("data.root", "data.num_threads", "data.num_workers", "data.prefetch", "pictures")
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "mtlflax")


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

    It goes into `config.json` as a fact of `record`. What the files hold is not looked at: that would take minutes.
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


def compare(config: ConfigDict, workdir: Path, *, free: tuple[str, ...] = (), **facts: Any) -> None:
    """Compares with the run that the workdir holds.

    Args:
        config: resolved.
        workdir: a run's folder.
        free: keys that may differ, beside those that change no number.
        **facts: about the data, that must not change in a run either: what `describe_frames` says.

    Raises:
        UserError: the workdir was made with another configuration or on other frames (naming the keys), or has no
            `config.json`.
    """
    known = load(workdir)
    here = _flat(json.loads(config.to_json())) | {f"facts.{k}": v for k, v in facts.items()}
    there = _flat(known["config"]) | {f"facts.{k}": v for k, v in known["facts"].items()}
    absent = "(absent)"
    lines = [
        f"  {key}: {there.get(key, absent)!r} there, {here.get(key, absent)!r} here"
        for key in sorted(here.keys() | there.keys())
        if key not in (*_FREE, *free) and there.get(key, absent) != here.get(key, absent)
    ]
    if lines:
        raise UserError(
            f"{workdir} holds a run of another configuration or on other data:\n"
            + "\n".join(lines)
            + "\nGive these to go on with it, or another --workdir to start afresh."
        )
    if there["data.root"] != here["data.root"] and jax.process_index() == 0:
        print(
            f"NOTE: this run was begun on {there['data.root']}; now the data is {here['data.root']}, with frames of"
            " the same names"
        )


def begun(workdir: Path) -> bool:
    """Whether the workdir has a checkpoint. Before, it holds nothing that another configuration could spoil."""
    return any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*"))


def record(config: ConfigDict, workdir: Path, *, encoder: str = "from scratch", **facts: Any) -> None:
    """Writes `config.json`; where the workdir has a checkpoint already, compares with the one that is there.

    Args:
        config: as in `compare`.
        workdir: as in `compare`.
        encoder: what its weights are from, as `open_encoder` says. Not compared: a run that goes on has no need of it.
        **facts: as in `compare`.

    Raises:
        UserError: as from `compare`; the workdir cannot be written.
    """
    if begun(workdir):
        if not (workdir / "config.json").exists():
            raise UserError(
                f"{workdir} has checkpoints and no config.json, which says what run they are of: put it back (each "
                "checkpoint has the configuration in config/metadata), or give another --workdir"
            )
        compare(config, workdir, **facts)
        return
    content = {
        "config": json.loads(config.to_json()),
        "facts": facts,
        "encoder": encoder,
        "command": sys.argv,
        "versions": {name: metadata.version(name) for name in _VERSIONS} | {"python": platform.python_version()},
        "devices": [str(device.device_kind) for device in jax.devices()],
        "processes": jax.process_count(),
    }
    if jax.process_index() == 0:
        write_json(workdir / "config.json", content)


@contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Holds the workdir for this run; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: another run holds it.
    """
    path = workdir / "lock"
    with plain_errors(path):
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115 (closed below)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is writing to {workdir}: wait for it, or give another --workdir") from error
        yield


def load(workdir: Path) -> dict[str, Any]:
    """Reads a workdir's `config.json`.

    Raises:
        UserError: there is none, or it is broken.
    """
    path = workdir / "config.json"
    try:
        content = json.loads(path.read_text())
        return {"config": content["config"], "facts": content["facts"]}
    except FileNotFoundError as error:
        raise UserError(f"{workdir} is not a run's workdir: it has no config.json") from error
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): not written by mtlflax?") from error


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result
