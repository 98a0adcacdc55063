"""Data sources, augmentation and the input pipeline: NumPy, OpenCV and Grain, never a JAX array."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtlflax import registry
from mtlflax.data import field_json
from mtlflax.data.source import Depth, Field, Image, Labels, Map, Source
from mtlflax.errors import UserError

ROOT_VARIABLE = "CITYSCAPES_DATASET"  # as the official scripts have it
_LOOKED_AT = 32  # frames, in `check_truth`


def _cityscapes(config: Any, split: str) -> Source:
    from mtlflax.data.cityscapes import Cityscapes

    if not config.root:
        raise UserError(f"data.root is empty: give the root of Cityscapes, or {ROOT_VARIABLE}")
    return Cityscapes(config.root, split, size=tuple(config.size), depth=config.depth, classes=config.classes)


def _streets(config: Any, split: str) -> Source:
    from mtlflax.data.streets import Streets

    return Streets(
        split,
        size=tuple(config.size),
        depth=config.depth,
        classes=config.classes,
        length=config.streets[split],
        seed=config.streets.seed,
        cache="auto",
    )


# Name → function from `config.data` and a split, "train" or "val", to a source.
SOURCES: dict[str, Callable[[Any, str], Source]] = {"cityscapes": _cityscapes, "streets": _streets}


def resolve(name: str, root: str | os.PathLike[str] | None = None) -> tuple[str, str | None]:
    """Decide which data set a config means.

    Args:
        name: "streets", the embedded data set; "cityscapes"; "auto": Cityscapes where a root is known, else `streets`;
            or "package.module:function".
        root: of Cityscapes; empty or None = the environment variable CITYSCAPES_DATASET. For a source of your own, as
            it likes.

    Returns:
        The name of a source and its root, for `open_source`.

    Raises:
        UserError: a root is given, here or in the environment, that is not Cityscapes'; or one is given here for
            `streets`, which has none.
        ValueError: unknown name.
    """
    given = os.fspath(root) if root else ""
    if registry.is_path(name):
        return name, given
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
    lacking = [
        attribute for attribute in ("fields", "names", "__len__", "__getitem__") if not hasattr(opened, attribute)
    ]
    if lacking:
        raise UserError(f"data set {name!r}: its {type(opened).__name__} has no {lacking[0]} (see mtlflax.data.source)")
    if not isinstance(opened.fields, Mapping):
        raise UserError(f"data set {name!r}: `fields` is a {type(opened.fields).__name__}, not name → field")
    if wrong := [key for key, field in opened.fields.items() if not isinstance(field, Field)]:
        raise UserError(f"data set {name!r}: the field {wrong[0]!r} is not one of mtlflax.data.source's kinds")
    if not isinstance(opened.fields.get("image"), Image):
        raise UserError(f"data set {name!r}: declares no field 'image' of the kind Image")
    if not len(opened):
        raise UserError(f"data set {name!r}: the split {split} has no frames")
    if len(opened.names) != len(opened) or len(set(opened.names)) < len(opened):
        raise UserError(
            f"data set {name!r}: the split {split} has {len(opened)} frames and {len(set(opened.names))} different "
            "names: each frame needs its own"
        )
    return opened


def describe(opened: Source) -> str:
    """Tell a source's frames from others, wherever they lie: their number, the first, the last, a digest of all names.

    What is in the files is not looked at: it would take minutes.
    """
    names = list(opened.names)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    return f"{len(names)} frames, {names[0]} to {names[-1]}, {digest}"


def check_alike(training: Source, validation: Source, names: Iterable[str]) -> None:
    """Check that two splits declare the same fields, as far as they are used.

    Args:
        training: whose fields the tasks were made from.
        validation: the other.
        names: of the fields that are used.

    Raises:
        UserError: the validation split lacks a field, or declares other classes, another unit or kind.
    """
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


def check_truth(opened: Source, reads: Mapping[str, Sequence[str]]) -> list[str]:
    """Look for tasks that would train on nothing, in up to 32 frames spread over a source.

    Args:
        opened: a source, prepared.
        reads: task → the fields it reads.

    Returns:
        A note for each task without a single known value in the frames that were looked at.

    Raises:
        UserError: there is such a task, and these were all frames.
    """
    count = min(len(opened), _LOOKED_AT)
    indices = [i * len(opened) // count for i in range(count)]
    truths = {
        task: [name for name in names if isinstance(opened.fields[name], Labels | Depth | Map)]
        for task, names in reads.items()
    }
    waiting = {task for task, names in truths.items() if names}
    for index in indices:
        if not waiting:
            break
        sample = opened[index]
        waiting = {
            task for task in waiting if not all(_known(sample.get(name), opened.fields[name]) for name in truths[task])
        }
    notes = []
    for task in sorted(waiting):
        message = f"no {' or '.join(truths[task])} in the {len(indices)} training frames looked at"
        if len(indices) == len(opened):
            raise UserError(f"the task {task} would train on nothing: {message}, which are all there are")
        notes.append(f"{message} (of {len(opened)}): does the task {task} have any truth?")
    return notes


def _known(values: np.ndarray | None, field: Field) -> bool:
    """Whether a frame has a value that says something."""
    if values is None:
        return False
    if isinstance(field, Depth):
        return bool(np.any(field.measured(values)))
    if np.isnan(field.fill):
        return not bool(np.all(np.isnan(values)))
    return bool(np.any(values != field.fill))


__all__ = ["ROOT_VARIABLE", "SOURCES", "check_alike", "check_truth", "describe", "open_source", "resolve"]
