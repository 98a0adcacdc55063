"""Data sources, augmentation and the input pipeline: NumPy, OpenCV and Grain, never a JAX array."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtlflax import registry
from mtlflax.data import field_json, holdout, samples
from mtlflax.data.balance import Balanced
from mtlflax.data.mixture import Mixture, open_mixture
from mtlflax.data.source import Depth, Field, Image, Labels, Map, Source
from mtlflax.errors import UserError

__all__ = [
    "ROOT_VARIABLE",
    "SOURCES",
    "check_alike",
    "check_truth",
    "content_options",
    "describe",
    "open_source",
    "open_splits",
    "resolve",
]

ROOT_VARIABLE = "CITYSCAPES_DATASET"  # as the official scripts have it
_UNUSED = {"folder": ("classes", "depth"), "mtan": ("depth",)}  # keys that a data set does not read
_LOOKED_AT = 32  # frames, in `check_truth`
# Keys of `config.data` that say how and when frames are read, not what they hold.
_READING = (
    "cache",
    "on_error",
    "validation",
    "holdout",
    "balance",
    "augment",
    "num_threads",
    "num_workers",
    "prefetch",
)


def _cityscapes(config: Any, split: str) -> Source:
    from mtlflax.data.cityscapes import Cityscapes

    if not config.root:
        raise UserError(f"data.root is empty: give the root of Cityscapes, or {ROOT_VARIABLE}")
    options = config.get("cityscapes", {})
    annotations, instances = options.get("annotations", "gtFine"), options.get("instances", False)
    name, frames = (options.get("train", "train"), options.get("frames", "")) if split == "train" else (split, "")
    return Cityscapes(
        config.root,
        name,
        size=tuple(config.size),
        depth=config.depth,
        classes=config.classes,
        # The validation frames have both, and are always scored by the fine ones.
        annotations=annotations if split == "train" else "gtFine",
        frames=frames or None,
        instances=instances,
    )


def _streets(config: Any, split: str) -> Source:
    from mtlflax.data.streets import Streets

    length, seed = config.streets[split], config.streets.seed
    options = {"size": tuple(config.size), "depth": config.depth, "classes": config.classes}
    return Streets(split, **options, length=length, seed=seed, cache="auto")


def _folder(config: Any, split: str) -> Source:
    from mtlflax.data.folder import open_folder

    return open_folder(config, split)


def _mtan(config: Any, split: str) -> Source:
    from mtlflax.data.mtan import MTANCityscapes

    if not config.root:
        raise UserError("data.name is mtan: give the folder that holds train and val as data.root")
    return MTANCityscapes(config.root, split, size=tuple(config.size), classes=config.classes)


# Name → function from `config.data` and a split, "train" or "val", to a source.
SOURCES: dict[str, Callable[[Any, str], Source]] = {
    "cityscapes": _cityscapes,
    "streets": _streets,
    "folder": _folder,
    "mtan": _mtan,
}


def resolve(name: str, root: str | os.PathLike[str] | None = None) -> tuple[str, str | None]:
    """Decide which data set a config means: the name and the root that `open_source` takes.

    `name` is "streets", the embedded data set; "cityscapes"; "auto": Cityscapes where a root is known, else `streets`;
    "folder", your own files; "mtan", MTAN's arrays; "mixture", several of them; or "package.module:function". `root` is
    of Cityscapes; empty or None = the environment variable CITYSCAPES_DATASET. The others have a root of their own; if
    it is a path that exists, it becomes absolute.

    Raises:
        UserError: the root, given here or in the environment, is not Cityscapes'; or one is given here for `streets`.
        ValueError: unknown name.
    """
    given = os.fspath(root) if root else ""
    if registry.is_path(name) or name in ("folder", "mtan", "mixture"):
        path = Path(given).expanduser()
        return name, str(path.absolute()) if given and path.exists() else given
    if name == "streets":
        if given:
            raise UserError(f"data.root is {given}, but data.name is streets: drop one of the two")
        return "streets", None
    if name not in ("auto", "cityscapes"):
        raise ValueError(f"unknown data set {name!r}: choose from auto, {', '.join(SOURCES)}, or give module:function")
    origin = "data.root" if given else f"the environment variable {ROOT_VARIABLE}"
    given = given or os.environ.get(ROOT_VARIABLE, "")
    if not given:
        if name == "cityscapes":
            raise UserError(f"data.name is cityscapes: give its folder as data.root or {ROOT_VARIABLE}")
        return "streets", None
    from mtlflax.data import cityscapes

    try:
        return "cityscapes", str(cityscapes.check_root(given))
    except UserError as error:
        raise UserError(f"{origin}: {error}") from error


def open_source(name: str, config: Any, split: str) -> Source:
    """Open a split of a data set.

    Args:
        name: a key of `SOURCES`, or "package.module:function", called as those are.
        config: `config.data`; a source of your own may have keys of its own there.
        split: "train" or "val".

    Raises:
        UserError: the data set is not there or not whole, or what the function returns is no `Source`.
        ValueError: an option that does not fit.
    """
    function = registry.find(name, SOURCES, what="data set")
    if not callable(function):
        raise UserError(f"data set {name!r} is a {type(function).__name__}: name a function of (config.data, split)")
    opened = function(config, split)
    if wrong := _what_is_wrong(opened, split):
        raise UserError(f"data set {name!r}: {wrong}")
    return opened


def open_splits(config: Any) -> tuple[Source, dict[str, Source]]:
    """Open what a run needs, from `config.data`: the training frames, and split → frames to evaluate.

    With `config.validation` "val" that is the data set's own "val". With "holdout" it is first "holdout", a part of the
    training frames (`config.holdout`, a share), which the best checkpoint is chosen on, and then "val". With
    `config.cache` they are read from a cache (`mtlflax.data.records`). Errors are as in `open_source`; UserError for a
    cache that does not fit, ValueError for a share that leaves nothing.
    """
    training, validation = _open_both(config)
    if config.validation == "val":
        return _balanced(training, config), {"val": validation}
    rest: Source
    held: Source
    if isinstance(training, Mixture):
        rest, held = training.split(lambda part: holdout.split(part, config.holdout))
    else:
        rest, held = holdout.split(training, config.holdout)
    return _balanced(rest, config), {"holdout": held, "val": validation}


def _open_both(config: Any) -> tuple[Source, Source]:
    """The training and the validation frames, from a cache if `config` has one; of a mixture, each from its own."""
    if config.name == "mixture":
        return open_mixture(config, _open_both, resolve)
    opened = {split: open_source(config.name, config, split) for split in ("train", "val")}
    if config.get("cache"):
        from mtlflax.data.records import cached

        opened = cached(config, opened)
    return opened["train"], opened["val"]


def _balanced(training: Source, config: Any) -> Source:
    """The training frames, or those of each data set of a mixture, in an order that `config.balance` asks for."""
    temperature = config.get("balance", 0.0)
    if not temperature:
        return training
    identity = json.dumps(content_options(config), sort_keys=True, default=str)
    options = {"threads": config.num_threads, "on_error": config.on_error}
    if not isinstance(training, Mixture):
        return Balanced(training, temperature, identity=identity, **options)
    # Those without labels stay as they are.
    parts = {
        name: Balanced(part, temperature, identity=f"{name} {identity}", **options) if _has_classes(part) else part
        for name, part in training.parts.items()
    }
    return Mixture(parts, training.per_batch)


def _has_classes(source: Source) -> bool:
    return any(isinstance(field, Labels) and field.classes for field in source.fields.values())


def _what_is_wrong(opened: Any, split: str) -> str:
    for attribute in ("fields", "names", "__len__", "__getitem__"):
        if not hasattr(opened, attribute):
            return f"its {type(opened).__name__} has no {attribute} (see mtlflax.data.source)"
    if not isinstance(opened.fields, Mapping):
        return f"`fields` is a {type(opened.fields).__name__}, not name → field"
    for key, field in opened.fields.items():
        if not isinstance(field, Field):
            return f"the field {key!r} is not one of mtlflax.data.source's kinds"
    if not isinstance(opened.fields.get("image"), Image):
        return "declares no field 'image' of the kind Image"
    count, names = len(opened), len(set(opened.names))
    if not count:
        return f"the split {split} has no frames"
    if not count == len(opened.names) == names:
        return f"the split {split} has {count} frames and {names} different names: each frame needs its own"
    return ""


def content_options(config: Any) -> dict[str, Any]:
    """Return the keys of `config.data` that determine what a frame holds.

    These are all but those for how and when frames are read, those of other data sets, and the number of frames, which
    their names show.
    """
    options = {name: value for name, value in config.to_dict().items() if name not in _READING}
    others = {"streets", "cityscapes", "folder", "mixture"} if config.name in SOURCES else set()
    unused = (others - {config.name}) | set(_UNUSED.get(config.name, ()))
    kept = {name: value for name, value in options.items() if name not in unused}
    if config.name == "streets":
        kept["streets"] = {"seed": options["streets"]["seed"]}
    return kept


def describe(opened: Source) -> str:
    """Tell a source's frames from others, wherever they lie: by their names, and its `identity` if it has one.

    What is in the files is not looked at.
    """
    names = list(opened.names)
    told = "\n".join([*names, getattr(opened, "identity", "")]).rstrip("\n")
    digest = hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{len(names)} frames, {names[0]} to {names[-1]}, {digest}"


def check_alike(training: Source, validation: Source, names: Iterable[str]) -> None:
    """Raise UserError unless the validation split declares the named fields exactly as the training split does."""
    for name in names:
        if name not in validation.fields:
            why = getattr(validation, "missing", {}).get(name, f"it declares {', '.join(validation.fields)}")
            raise UserError(f"the validation frames lack the field {name!r}: {why}")
        ours, theirs = (field_json.to_json({name: opened.fields[name]})[name] for opened in (training, validation))
        if ours != theirs:
            key = next(key for key in ours | theirs if ours.get(key) != theirs.get(key))
            raise UserError(
                f"the field {name!r} is not the same in the training and the validation frames: its {key} is "
                f"{ours.get(key)} and {theirs.get(key)}"
            )


def check_truth(opened: Source, reads: Mapping[str, Sequence[str]], on_error: str = "raise") -> list[str]:
    """Look for tasks that would train on nothing, in up to 32 frames spread over a source, which is prepared.

    `reads` is task → the fields it reads. Returns a note for each task without a single known value in these frames;
    raises UserError if they are all that there are, or one cannot be read and is not to be skipped.
    """
    readable = samples.Readable(opened, on_error)
    count = min(len(opened), _LOOKED_AT)
    waiting = {}
    for task, names in reads.items():
        if truths := [name for name in names if isinstance(opened.fields[name], Labels | Depth | Map)]:
            waiting[task] = truths
    for i in range(count):
        if not waiting:
            break
        sample = readable[i * len(opened) // count]
        for task, names in list(waiting.items()):
            if all(_known(sample.get(name), opened.fields[name]) for name in names):
                del waiting[task]
    notes = []
    for task, names in sorted(waiting.items()):
        message = f"none of {count} training frames has a known value in {' or '.join(names)}"
        if count == len(opened):
            raise UserError(f"the task {task} has nothing to learn from: {message}")
        notes.append(f"{message} (looked at, of {len(opened)}): does the task {task} have any truth?")
    return notes


def _known(values: np.ndarray | None, field: Field) -> bool:
    """Whether a frame has a value that says something."""
    if values is None:
        return False
    if isinstance(field, Depth):
        return bool(np.any(field.measured(values)))
    known = ~np.isnan(values) if np.isnan(field.fill) else values != field.fill
    return bool(np.any(known))
