"""Start a new run from the trained network of another: the trunk, and what fits of the rest."""

from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from mtlflax.data import field_json
from mtlflax.errors import UserError
from mtlflax.experiment import Experiment, in_encoders, load
from mtlflax.run.checkpoint import Checkpoints
from mtlflax.training.parallel import say
from mtlflax.training.step import TrainState


def start_from(experiment: Experiment, workdir: Path, state: TrainState) -> tuple[TrainState, str]:
    """Return a state at step 0 with the parameters and batch statistics of another run's best checkpoint.

    What has the same path and shape in both networks is taken; all else of the branches, such as the heads of other
    tasks, stays as it was drawn. The optimizer, the weighting and the schedule begin anew.

    Returns:
        The state, and in words what was taken.

    Raises:
        UserError: there is no run in `workdir`, it cannot be restored, or its encoder is another.
    """
    there = load(workdir)
    for task in experiment.tasks:
        if task.name in {other.name for other in there.tasks}:
            both = (experiment.fields, there.fields)
            declared = [field_json.to_json({name: of[name] for name in task.fields if name in of}) for of in both]
            if declared[0] != declared[1]:
                say(f"NOTE: {task.name} had another unit or other classes in {workdir}: does what it has learned fit?")
    sharding = jax.tree.leaves(state.params)[0].sharding
    shapes = {"params": there.variable_shapes["params"], "batch_stats": there.variable_shapes.get("batch_stats", {})}
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    step, restored = Checkpoints(workdir, read_only=True).restore_best(like, variables_only=True)
    theirs = flatten_dict(restored, sep="/")
    ours = flatten_dict({"params": state.params, "batch_stats": state.batch_stats}, sep="/")
    fits = {path for path, x in ours.items() if path in theirs and theirs[path].shape == x.shape}
    for path in sorted(ours.keys() - fits):
        if in_encoders(experiment.model, path.partition("/")[2]):
            found = f"of shape {list(theirs[path].shape)} there" if path in theirs else "not there"
            raise UserError(
                f"config: model.start_from: {workdir} is of another network: {path} is {found}, and "
                f"{list(ours[path].shape)} here"
            )
    merged: Any = unflatten_dict({path: theirs[path] if path in fits else x for path, x in ours.items()}, sep="/")
    new = sorted({"/".join(path.split("/")[1:3]) for path in ours.keys() - fits})
    origin = f"{len(fits)} arrays from step {step} of {workdir}" + (f"; new: {', '.join(new)}" if new else "")
    return state.replace(params=merged["params"], batch_stats=merged.get("batch_stats", {})), origin
