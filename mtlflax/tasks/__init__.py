"""The tasks: each one a head, a loss, metrics, colors and output files.

A task sees batches as the loader makes them (the `image`, the fields that it asks for, and `mask` in evaluation) and
knows nothing of the network, the weighting or the other tasks. One of your own is a function `(config, fields) ->
Task`, named "package.module:function" in `config.tasks`; `fields` are those that the data set declares. `dense` makes a
task from a loss and metrics given pixel by pixel; `configs/three_tasks.py` is an example.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mtlflax import registry
from mtlflax.data.source import Field
from mtlflax.errors import UserError
from mtlflax.tasks.check import check
from mtlflax.tasks.depth import depth
from mtlflax.tasks.segmentation import segmentation
from mtlflax.tasks.task import Batch, Task, dense

__all__ = ["TASKS", "Batch", "Task", "check", "dense", "depth", "from_config", "segmentation"]

# A function from a config and the data set's fields to a task.
Factory = Callable[[Any, Mapping[str, Field]], Task]

TASKS: dict[str, Factory] = {
    "segmentation": lambda config, fields: segmentation(
        fields, loss=config.losses.segmentation, class_weights=dict(config.losses.get("class_weights") or ())
    ),
    "depth": lambda config, fields: depth(fields, loss=config.losses.depth),
}


def from_config(config: Any, fields: Mapping[str, Field], missing: Mapping[str, str] | None = None) -> tuple[Task, ...]:
    """Make the tasks of `config.tasks`, in that order; `missing` says why the data set lacks a field.

    Raises:
        UserError: there is no such task, or the data set lacks a field that it reads.
        ValueError: a loss or a field that does not fit; a function that gives no task; a name that occurs twice.
    """
    made = []
    for name in config.tasks:
        declared = _Declared(fields, name, missing or {})
        function = registry.find(name, TASKS, what="task")
        if not callable(function):
            raise UserError(f"task {name!r} is a {type(function).__name__}: name a function of (config, fields)")
        task = function(config, declared)
        if not isinstance(task, Task):
            raise ValueError(f"tasks: {name!r} gives a {type(task).__name__}, not a mtlflax.tasks.Task")
        for field in task.fields:
            declared[field]
        made.append(dataclasses.replace(task, auxiliary=config.losses.auxiliary))
    names = [task.name for task in made]
    if not made or len(set(names)) < len(names):
        raise ValueError(f"tasks is {tuple(config.tasks)}: {'a task is there twice' if made else 'give at least one'}")
    return tuple(made)


class _Declared(dict[str, Field]):
    """The fields of a data set, which say what is wrong where a task asks for one that is not there."""

    def __init__(self, fields: Mapping[str, Field], task: str, missing: Mapping[str, str]) -> None:
        super().__init__(fields)
        self._task, self._why = task, missing

    def __missing__(self, name: str) -> Field:
        why = self._why.get(name, f"it declares {', '.join(self)}")
        raise UserError(f"the task {self._task} reads the field {name!r}, which the data set lacks: {why}")
