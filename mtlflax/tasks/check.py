"""A trial of a task on a blank frame, so that a mistake in one of its functions shows before training and not after."""

from collections.abc import Mapping

import jax
import numpy as np

from mtlflax.data.source import Field
from mtlflax.errors import UserError, describe
from mtlflax.tasks.task import Task


def check(task: Task, fields: Mapping[str, Field], size: tuple[int, int]) -> None:
    """Raise UserError if one of a task's functions fails, or gives another shape than `Task` says.

    Those of the device are traced. Those of the host are called, with a frame [1, H, W, ...] of which nothing is known.
    """
    names = dict.fromkeys(("image", *task.fields, *task.scored_by))
    batch = {name: np.full((1, *fields[name].shape(size)), fields[name].fill, fields[name].dtype) for name in names}
    batch["mask"] = np.ones(1, np.float32)
    prediction = np.zeros((1, *size, task.channels), np.float32)
    trying = "activation"
    try:
        _expect(jax.eval_shape(task.activation, prediction).shape, prediction.shape)
        trying = "loss"
        _expect(jax.eval_shape(lambda p, b: task.loss(p, b, None), prediction, batch).shape, ())
        trying = "valid"
        jax.eval_shape(task.valid, batch)
        trying = "sums"
        sums = jax.eval_shape(task.sums, prediction, batch)
        trying = "metrics"
        task.metrics(jax.tree.map(lambda x: np.ones(x.shape, x.dtype), sums))
        trying = "picture"
        picture = jax.eval_shape(task.picture, prediction)
        trying = "truth"
        truth = np.asarray(task.truth(batch))
        _expect(truth.shape, picture.shape)
        trying = "colors"
        for pixels in (np.zeros(picture.shape[1:], picture.dtype), truth[0]):
            colors = task.colors(pixels)
            _expect((colors.dtype, *colors.shape), (np.uint8, *size, 3))
        if task.errors:
            trying = "errors"
            drawn = task.errors(truth[0], np.zeros(picture.shape[1:], picture.dtype))
            _expect((drawn.dtype, *drawn.shape), (np.uint8, *size, 3))
        if task.files:
            trying = "files"
            for values in task.files(prediction[0], 0.0).values():
                _expect(np.shape(values)[:2], size)
    except Exception as error:
        raise UserError(f"task {task.name!r}: `{trying}` fails on a blank frame: {describe(error)}") from error


def _expect(found: tuple[object, ...], expected: tuple[object, ...]) -> None:
    if found != expected:
        raise ValueError(f"gives {[*found]}, not {[*expected]}")
