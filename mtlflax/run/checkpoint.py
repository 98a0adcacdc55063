"""Checkpoints of a run: the state (weighting included), the position in the data, and the configuration.

Orbax writes them in the background, each into a temporary folder that is renamed when it is whole: a process killed at
any moment leaves the last whole checkpoint. Kept are the newest few and the best by a metric.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mtlflax.errors import UserError
from mtlflax.run.signals import held_back

_DISK_TROUBLE = ("No space left on device", "Read-only file system", "Permission denied", "RESOURCE_EXHAUSTED")
_SCORE = "score"  # the metric that decides, negated where less is better, so that more is always better


class Checkpoints:
    """The checkpoints of a workdir, in `DIR/checkpoints/<step>`.

    Args:
        workdir: the run's folder.
        keep: how many of the newest to keep.
        read_only: for evaluation and prediction; writes and deletes nothing.

    Raises:
        UserError: the folder cannot be written, or the disk is full (from any method).
    """

    def __init__(self, workdir: Path, *, keep: int = 2, read_only: bool = False) -> None:
        self.directory = (workdir / "checkpoints").absolute()
        if not read_only and any(character in str(self.directory) for character in "[]"):
            raise UserError(f"cannot write checkpoints to {self.directory}: Orbax takes [ and ] for a pattern")
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    n=1,
                    get_metric_fn=lambda metrics: metrics[_SCORE],
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=lambda metrics: metrics[_SCORE],  # without it Orbax forgets the scores when the process ends
            # Every call of save() saves: the loop knows when.
            save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
            create=not read_only,
            cleanup_tmp_directories=not read_only,  # what a killed process left; another's that still runs is not ours
        )
        with self._said_plainly():
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    @property
    def latest_step(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step of the checkpoint with the best score, the newest of equals, or None where none competes."""
        scores = {}
        for step in self._manager.all_steps():
            with self._said_plainly():
                metrics = self._manager.metrics(step)
            if metrics is not None and metrics[_SCORE] > -math.inf:
                scores[step] = metrics[_SCORE]
        return max(scores, key=lambda step: (scores[step], step)) if scores else None

    def save(
        self,
        step: int,
        state: Any,
        *,
        config: Mapping[str, Any],
        score: float | None = None,
    ) -> None:
        """Saves in the background; the state is copied before this returns.

        Args:
            step: updates so far. The data pipeline gives the batch of any step, so it is the data position too.
            state: the `TrainState`.
            config: the run's configuration, JSON.
            score: more is better; None where this checkpoint does not compete for the best.
        """
        if step in self._manager.all_steps():
            return  # resumed here: the same checkpoint is there already
        with self._said_plainly():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave({"next_step": step}),
                    config=ocp.args.JsonSave(dict(config)),
                ),
                metrics={_SCORE: -math.inf if score is None else score},
            )

    def restore(self, step: int, like: Any) -> Any:
        """Restores a checkpoint.

        Args:
            step: one that exists.
            like: a state, or its shapes with shardings: what is restored has the same.

        Returns:
            The state. `step` is also the data position: the batch to go on with.

        Raises:
            UserError: the checkpoint does not fit `like`.
        """
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            with held_back():
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()),
                )
        except (ValueError, KeyError, OSError, json.JSONDecodeError) as error:
            raise UserError(
                f"cannot restore {self.directory / str(step)}: {_first_line(error)}\n"
                "It was damaged, or made by another network. Delete that folder to go on from the one before."
            ) from error
        if int(restored["data"]["next_step"]) != step:
            raise UserError(f"{self.directory / str(step)} stands for another step: it was renamed")
        return restored["state"]

    def wait(self) -> None:
        """Returns when everything saved is on the disk."""
        with self._said_plainly():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and closes."""
        with self._said_plainly():
            self._manager.close()

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        """Turns a disk that is full or cannot be written into a message; not to be interrupted.

        Orbax runs event loops: an exception out of their middle closes them, and what still writes complains.
        """
        try:
            with held_back():
                yield
        except json.JSONDecodeError as error:
            raise UserError(
                f"a checkpoint in {self.directory} is damaged ({error}): delete the newest folder there, or the best"
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            # TensorStore puts the reason behind paths and sources.
            reason = next((sign for sign in _DISK_TROUBLE if sign in str(error)), None)
            if reason is None and not isinstance(error, OSError):
                raise
            raise UserError(
                f"cannot write checkpoints to {self.directory}: {reason or _first_line(error)}\n"
                "Free some space or give another --workdir; what was saved before is whole."
            ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
