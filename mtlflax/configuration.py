"""A run's configuration: resolved to a data set, checked, recorded in the workdir, compared with what is there."""

import fcntl
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
from mtlflax.errors import UserError
from mtlflax.writers import plain_errors, write_json

# What may differ between the processes of one run: it changes no number.
_FREE = ("data.root", "data.num_threads", "data.num_workers", "data.prefetch", "pictures")
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "mtlflax")


def resolve(config: ConfigDict) -> ConfigDict:
    """A copy in which `data.name` and `data.root` are those of a data set, by `data.resolve`.

    Raises:
        UserError: the root names no data set.
    """
    config = config.copy_and_resolve_references()
    try:
        name, root = data.resolve(config.data.name, config.data.root)
    except ValueError as error:
        raise UserError(f"configuration: data: {error}") from error
    config.data.name, config.data.root = name, str(root or "")
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


def describe_data(config: ConfigDict) -> str:
    """Says which data set a resolved configuration has, so that nobody takes one for the other."""
    if config.data.name == "streets":
        return (
            "=" * 100
            + "\nDATA: streets, the embedded data set of rendered scenes: NOT Cityscapes. For Cityscapes set"
            + "\n      CITYSCAPES_DATASET or --config.data.root to the folder that holds leftImg8bit, gtFine, …\n"
            + "=" * 100
        )
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


def record(config: ConfigDict, workdir: Path, **facts: Any) -> None:
    """Writes `config.json`, or compares with the one that is there.

    Args:
        config: resolved.
        workdir: the run's folder.
        **facts: about the data, that must not change in a run either: `num_train`, say.

    Raises:
        UserError: the workdir was made with another configuration (naming the keys), or cannot be written.
    """
    path = workdir / "config.json"
    # Before its first checkpoint a workdir holds nothing that another configuration could spoil.
    begun = any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*"))
    known = load(workdir) if path.exists() and begun else None
    here = _flat(json.loads(config.to_json())) | {f"facts.{k}": v for k, v in facts.items()}
    if known is not None:
        there = _flat(known["config"]) | {f"facts.{k}": v for k, v in known["facts"].items()}
        absent = "(absent)"
        lines = [
            f"  {key}: {there.get(key, absent)!r} there, {here.get(key, absent)!r} here"
            for key in sorted(here.keys() | there.keys())
            if key not in _FREE and there.get(key, absent) != here.get(key, absent)
        ]
        if lines:
            raise UserError(
                f"{workdir} holds a run of another configuration:\n"
                + "\n".join(lines)
                + "\nGive these values to go on with it, or another --workdir to start afresh."
            )
        if there["data.root"] != here["data.root"] and jax.process_index() == 0:
            print(f"NOTE: this run was begun on {there['data.root']}; now the data is {here['data.root']}")
        return
    content = {
        "config": json.loads(config.to_json()),
        "facts": facts,
        "command": sys.argv,
        "versions": {name: metadata.version(name) for name in _VERSIONS} | {"python": platform.python_version()},
        "devices": [str(device.device_kind) for device in jax.devices()],
        "processes": jax.process_count(),
    }
    if jax.process_index() == 0:
        write_json(path, content)


@contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Holds the workdir for this run; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: another run holds it.
    """
    path = workdir / "lock"
    with plain_errors(path):
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
