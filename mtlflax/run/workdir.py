"""The workdir: its lock, its `config.json`, and the check that a resumed run has the same configuration."""

import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mtlflax import files, registry
from mtlflax.errors import UserError

# What may differ between the processes of one run: it changes no number (or, as on_error, only where a run would end).
_FREE = (
    "data.root",
    "data.cache",
    "data.on_error",
    "data.num_threads",
    "data.num_workers",
    "data.prefetch",
    "parallel",
    "log_every",
    "checkpoint.every",
    "checkpoint.keep",
    "pictures",
    "evaluate.export",
    "writers",
)
# Of these, what may differ between the hosts of a run at the same time.
_OF_A_HOST = ("data.root", "data.cache", "data.num_threads", "data.num_workers", "data.prefetch")
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "mtlflax")


@contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Keep other runs out of the workdir, which is created if needed; UserError if one holds it already."""
    path = workdir / "lock"
    with files.plain_errors(path):
        workdir.mkdir(parents=True, exist_ok=True)
        path.touch()
    with ExitStack() as stack:
        try:
            stack.enter_context(files.lock(path))
        except BlockingIOError as error:
            raise UserError(f"another run is writing to {workdir}: wait for it, or give another --workdir") from error
        yield


def is_locked(workdir: Path) -> bool:
    """Whether a run is writing to the workdir now."""
    return files.is_locked(workdir / "lock")


def has_checkpoint(workdir: Path) -> bool:
    """Whether the workdir has a checkpoint. Without one, it holds nothing that another configuration could spoil."""
    return any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*"))


def recall_modules(workdir: Path) -> None:
    """Have a run's own modules, if there is a run in the workdir, found again where they were."""
    if has_checkpoint(workdir) and (workdir / "config.json").exists():
        load(workdir)


def recorded_config(workdir: Path) -> ConfigDict:
    """Return the configuration of the run in the workdir, and have its own modules found; UserError as from `load`."""
    return ConfigDict(json.loads(json.dumps(load(workdir)["config"]), object_hook=_with_tuples))


def record(
    config: ConfigDict, workdir: Path, *, fields: Mapping[str, Any], encoder: str = "from scratch", **facts: Any
) -> None:
    """Write `config.json`, or, if the workdir has a checkpoint, check that the run there is the same.

    Args:
        config: resolved.
        workdir: a run's folder.
        fields: of the data set, from `data.field_json.to_json`: prediction needs the classes and the unit.
        encoder: where its weights are from. Not compared: a resumed run does not load them.
        **facts: about the data, which must not change during a run either.

    Raises:
        UserError: as from `compare`; the workdir cannot be written.
    """
    if has_checkpoint(workdir):
        if not (workdir / "config.json").exists():
            raise UserError(
                f"{workdir} has checkpoints but no config.json, which says what run they are of: put it back (each "
                "checkpoint holds the configuration in config/metadata), or give another --workdir"
            )
        compare(config, workdir, fields, **facts)
        return
    content = {
        "config": json.loads(config.to_json()),
        "facts": facts,
        "fields": fields,
        "encoder": encoder,
        "modules": registry.origins(),
        "command": sys.argv,
        "versions": {name: metadata.version(name) for name in _VERSIONS} | {"python": platform.python_version()},
        "devices": [str(device.device_kind) for device in jax.devices()],
        "processes": jax.process_count(),
    }
    if jax.process_index() == 0:
        files.write_json(workdir / "config.json", content)


def extend(workdir: Path, config: ConfigDict, fields: Mapping[str, Any], **facts: Any) -> None:
    """Have the run in the workdir last for more epochs, and keep in `config.json` from which step on, and how many.

    To be called by all processes, with what `record` is given. UserError if there is no run, it has more epochs, or it
    differs in anything else.
    """
    before, epochs = load(workdir)["config"].get("epochs", 0), config.epochs
    if not has_checkpoint(workdir):
        raise UserError(f"{workdir} has no checkpoint to train on from: leave out --extend")
    if epochs < before:
        raise UserError(f"{workdir} is a run of {before:g} epochs: --extend needs --config.epochs above that")
    compare(config, workdir, fields, free=("epochs",), **facts)
    multihost_utils.sync_global_devices(f"before {workdir} is extended")
    if jax.process_index() == 0 and epochs > before:
        content = json.loads((workdir / "config.json").read_text())
        step = max(int(entry.name) for entry in (workdir / "checkpoints").glob("*") if entry.name.isdigit())
        content["config"]["epochs"] = epochs
        content["extended"] = [*content.get("extended", []), {"step": step, "from": before, "to": epochs}]
        files.write_json(workdir / "config.json", content)
    multihost_utils.sync_global_devices(f"after {workdir} is extended")


def agree(config: ConfigDict, **facts: Any) -> None:
    """Raise UserError, on all processes, if they have different configurations, data or versions.

    Else they would train together on what each of them has.
    """
    if jax.process_count() == 1:
        return
    versions = {name: metadata.version(name) for name in _VERSIONS}
    ours = flatten_dict({"config": json.loads(config.to_json()), "facts": facts, "versions": versions}, sep=".")
    shown = {key: repr(value) for key, value in ours.items() if key not in {f"config.{key}" for key in _OF_A_HOST}}
    data = np.frombuffer(json.dumps(shown, sort_keys=True).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.array([len(data)]))))
    every = multihost_utils.process_allgather(np.pad(data, (0, longest - len(data))))
    first, *others = [json.loads(bytes(row).rstrip(b"\0")) for row in every.reshape(jax.process_count(), longest)]
    for number, other in enumerate(others, 1):
        for key in first | other:
            if first.get(key) != other.get(key):
                here, there = (_cut(str(each.get(key))) for each in (first, other))
                raise UserError(
                    f"the processes of this run differ: {key} is {here} for process 0, {there} for process {number}: "
                    "start all by the same command, with the same data"
                )


def compare(
    config: ConfigDict, workdir: Path, fields: Mapping[str, Any], free: Sequence[str] = (), **facts: Any
) -> None:
    """Raise UserError, naming what differs, unless the run in the workdir has this configuration, fields and facts.

    The keys of the config in `free` may differ, besides those that never change a number.
    """
    known = load(workdir)
    # Of the fields, what is declared in both: whether one that no task reads is there makes no difference.
    shared = {name: json.loads(json.dumps(field)) for name, field in fields.items() if name in known["fields"]}
    ours = {"config": json.loads(config.to_json()), "facts": facts, "fields": shared}
    known["fields"] = {name: known["fields"][name] for name in shared}
    here, there = (
        flatten_dict(each["config"] | {k: each[k] for k in ("facts", "fields")}, sep=".") for each in (ours, known)
    )
    absent = "(absent)"
    lines = [
        f"  {key}: {_short(there.get(key, absent))} there, {_short(here.get(key, absent))} here"
        for key in sorted(here.keys() | there.keys())
        if key not in (*_FREE, *free) and there.get(key, absent) != here.get(key, absent)
    ]
    if lines:
        raise UserError(
            f"{workdir} holds a run with another configuration or other data:\n"
            + "\n".join(lines)
            + "\nGive the values on the left, or another --workdir to start a new run."
        )
    root = there.get("data.root", absent)
    if root != here["data.root"] and jax.process_index() == 0:
        print(f"NOTE: this run began on {root}; the data is now {here['data.root']}, with frames of the same names")


def _short(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """What configs hold in the place of lists, which JSON has: overrides keep a value's type."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def load(workdir: Path) -> dict[str, dict[str, Any]]:
    """Read `config`, `facts` and `fields` from `config.json`, and have the run's own modules found again.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    path = workdir / "config.json"
    try:
        content = json.loads(path.read_text())
        registry.recall(content.get("modules", {}))
        known = {key: content[key] for key in ("config", "facts", "fields")}
    except FileNotFoundError as error:
        raise UserError(f"{workdir} is not a run's workdir: it has no config.json") from error
    except KeyError as error:
        raise UserError(f"{path} has no key {error}: it was edited, or not written by mtlflax") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): it was edited, or not written by mtlflax") from error
    for key, value in known.items():
        if not isinstance(value, dict):
            raise UserError(f"{path}: {key!r} is {value!r}, not an object: it was edited, or not written by mtlflax")
    return known
