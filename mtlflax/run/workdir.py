"""A run's folder: held by one run at a time; what run it is of, recorded, and compared where it is gone on with."""

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

from mtlflax.errors import UserError
from mtlflax.files import plain_errors, write_json

# What may differ between the processes of one run: it changes no number.
_FREE = ("data.root", "data.num_threads", "data.num_workers", "data.prefetch", "pictures")
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "mtlflax")


def compare(config: ConfigDict, workdir: Path, *, free: tuple[str, ...] = (), **facts: Any) -> None:
    """Compares with the run that the workdir holds.

    Args:
        config: resolved.
        workdir: a run's folder.
        free: keys that may differ, beside those that change no number.
        **facts: about the data, that must not change in a run either: what `configuration.describe_frames` says.

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
        encoder: what its weights are from, as `configuration.open_encoder` says. Not compared: a run that goes on has
            no need of it.
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
