"""Checkpoints of a run: the state (weighting included), the position in the data, the score, and the configuration.

Orbax writes them in the background, each into a temporary folder that is renamed when it is complete: a process killed
at any moment leaves the last complete checkpoint. The newest few and the best by score are kept.
"""

import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from mtlflax.errors import UserError, one_line
from mtlflax.files import write_text
from mtlflax.run import checksums, evaluations, orbax_errors, signals
from mtlflax.training.parallel import say

_PAUSES = (1.0, 5.0, 30.0)  # seconds before what could not be written is tried again


class DamagedError(UserError):
    """A checkpoint's files are truncated, missing or overwritten."""


class _PassingError(UserError):
    """What a disk or a network may have recovered from in a while."""


class Checkpoints:
    """The checkpoints of a workdir, in `DIR/checkpoints/<step>`.

    The newest `keep` of them stay, and the best. With `read_only`, nothing is written or deleted. Every method raises
    UserError where the folder cannot be written or the disk is full.
    """

    def __init__(self, workdir: Path, *, keep: int = 2, read_only: bool = False) -> None:
        self.directory = (workdir / "checkpoints").absolute()
        self._keep, self._read_only = keep, read_only
        if not read_only and any(character in str(self.directory) for character in "[]"):
            raise UserError(f"cannot write checkpoints to {self.directory}: Orbax takes [ and ] for a pattern")
        orbax_errors.report_once()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self,
            # Every call of save() saves: the loop knows when.
            save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
            create=not read_only,
            cleanup_tmp_directories=not read_only,  # what a killed process left; those of a running one are not ours
        )
        with self._writing():
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._latest: tuple[int, Any] | None = None  # saved by this process: the step, and what it holds
        self._scores: dict[int, float | None] = {}
        self._unevaluated: set[int] = set()
        for step in self._manager.all_steps():
            self._read_score(step)

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return max(self._scores, default=None)

    @property
    def best_step(self) -> int | None:
        """The step of the checkpoint with the best score (the newest of equals), or None."""
        return next(iter(self._ranked()), None)

    def would_be_best(self, score: float | None) -> bool:
        """Whether a checkpoint with this score would be the best."""
        if score is None or math.isnan(score):
            return False
        return all(other is None or score >= other for other in self._scores.values())

    def awaits_evaluation(self, step: int) -> bool:
        """Whether the checkpoint of a step was saved before an evaluation of it came to its end."""
        return step in self._unevaluated

    def save(
        self,
        step: int,
        state: Any,
        *,
        config: Mapping[str, Any],
        score: float | None = None,
        evaluated: bool = True,
    ) -> None:
        """Save in the background; the state is copied before this returns.

        Args:
            step: the updates so far, and the data position too, as the data pipeline gives the batch of any step.
            state: arrays; their checksums are saved too.
            config: JSON.
            score: more is better; None or NaN if this checkpoint does not compete for the best.
            evaluated: False if an evaluation of this step was interrupted. If such a checkpoint is there already, it
                gets the score.
        """
        score = None if score is None or math.isnan(score) else score
        if step in self._scores and (not evaluated or step not in self._unevaluated):
            return  # resumed here: the same checkpoint is there already
        resumed = step in self._scores
        self._scores[step] = score  # now, because saving decides which others are kept
        if resumed:
            self._unevaluated.discard(step)
            position = checksums.seal({**self._read_position(step), "score": score, "evaluated": True})
            if jax.process_index() == 0:
                write_text(self._position_file(step), json.dumps(position))
            return
        if not evaluated:
            self._unevaluated.add(step)
        position = {"next_step": step, "score": score, "evaluated": evaluated, "checksums": checksums.of_arrays(state)}
        content = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            data=ocp.args.JsonSave(checksums.seal(position)),
            config=ocp.args.JsonSave(dict(config)),
        )
        self._latest = step, content
        self._write(lambda: self._manager.save(step, args=content))

    def restore_latest(self, like: Any) -> tuple[int, Any] | None:
        """Restore the newest checkpoint that is not damaged, for training to resume from: its step and the state.

        What is restored is like `like`, a state or its shapes with shardings. Newer checkpoints, which are damaged, are
        renamed to `<step>.damaged`, with a line that says so. Returns None if there are no checkpoints. UserError if
        every checkpoint is damaged (then none is renamed), or one does not fit `like`.
        """
        if not self._scores:
            return None
        steps = sorted(self._scores, reverse=True)
        cure = "Give another --workdir to start again."
        step, state, damaged = self._first(steps, lambda step: self.restore(step, like), cure)
        for other in damaged:
            aside = self._set_aside(other)
            say(f"NOTE: {damaged[other]}; set aside as {aside}, resuming from step {step}")
        return step, state

    def restore_best(self, like: Any, *, variables_only: bool = False) -> tuple[int, Any]:
        """Restore the best checkpoint that is not damaged, or the newest if none has a score: the step and the state.

        With `variables_only`, no more is restored than the parameters and batch statistics, and `like` is a dict of
        `params` and `batch_stats`. UserError if there is none, every one is damaged, or one does not fit `like`.
        """
        if not self._scores:
            raise UserError(f"{self.directory.parent} has no checkpoint: train it first")
        steps = dict.fromkeys([*self._ranked(), *sorted(self._scores, reverse=True)])
        cure = f"Train another run: {self.directory.parent} has no network any more."
        step, state, damaged = self._first(steps, lambda step: self.restore(step, like, variables_only), cure)
        for error in damaged.values():
            say(f"NOTE: {error}; using step {step} instead")
        # An evaluation is written before the checkpoint, which a full disk may have prevented.
        evaluated = evaluations.best_step(self.directory.parent)
        if evaluated is not None and evaluated not in self._scores:
            say(f"NOTE: {evaluations.BEST} is of step {evaluated}, which has no checkpoint; using step {step} instead")
        return step, state

    def restore(self, step: int, like: Any, variables_only: bool = False) -> Any:
        """Restore the state of one checkpoint, or, as in `restore_best`, no more than its variables.

        DamagedError if its files are damaged; UserError if it does not fit `like`, or cannot be read.
        """
        path = self.directory / str(step)
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state = ocp.args.PyTreeRestore(
            like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=variables_only
        )
        try:
            with signals.deferred():
                wanted = ocp.args.Composite(state=state, data=ocp.args.JsonRestore())
                restored = self._manager.restore(step, args=wanted)
            checksums.check(restored["data"], restored["state"])
            position = int(restored["data"]["next_step"])
        except Exception as error:  # Orbax raises a bare Exception where an array cannot be read
            if isinstance(error, MemoryError | RuntimeError):
                raise
            reason = orbax_errors.refusal(error)
            if reason is not None:
                raise UserError(f"cannot read {path}: {reason.reason}") from error
            difference = orbax_errors.difference(path / "state", like, variables_only)
            if difference:
                raise UserError(f"{path} is of another network: {difference}") from error
            # What the standard library says of a file that describes the arrays would mean nothing to the user.
            inside = isinstance(error, KeyError | json.JSONDecodeError | UnicodeDecodeError)
            what = "the description of its arrays cannot be read" if inside else one_line(error)[:200]
            raise DamagedError(f"{path} is damaged ({what})") from error
        if position != step:
            raise UserError(f"{path} is the checkpoint of step {position}: rename it so, or remove it")
        trained = getattr(restored["state"], "step", None)
        if trained is not None and int(trained) != step:
            raise DamagedError(f"{path} is damaged (its state is that of step {int(trained)})")
        return restored["state"]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tell Orbax, as its preservation policy, which checkpoints to keep: the newest few, and the best."""
        kept = {*sorted(checkpoint.step for checkpoint in checkpoints)[-self._keep :], self.best_step}
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def wait(self) -> None:
        """Return when everything saved is on the disk; to be called before the state last saved is changed."""
        self._write(self._manager.wait_until_finished)

    def check(self) -> None:
        """Raise UserError if what is being saved in the background could not be written."""
        self._write(self._manager.check_for_errors)

    def close(self) -> None:
        """Wait and close."""
        with self._writing():
            self._manager.close()

    def _write(self, write: Callable[[], Any]) -> None:
        """Save, or wait for what is being saved; if a disk does not answer, save the latest once more, in a while.

        What failed may have been an earlier checkpoint, which was still being written: it is left out. With several
        processes the others would wait for this one, so the first failure ends the run.
        """
        for pause in (*_PAUSES, None):
            try:
                with self._writing():
                    write()
                return
            except _PassingError as error:
                if pause is None or self._latest is None or jax.process_count() > 1:
                    raise
                step, content = self._latest
                say(f"NOTE: {str(error).splitlines()[0]}; trying again in {pause:g} s")
            time.sleep(pause)
            self._manager.reload()
            for other in self._scores.keys() - {step, *self._manager.all_steps()}:
                del self._scores[other]
            if not (self.directory / str(step)).exists():
                write = functools.partial(self._save_and_wait, step, content)

    def _save_and_wait(self, step: int, content: Any) -> None:
        self._manager.save(step, args=content)
        self._manager.wait_until_finished()

    def _ranked(self) -> list[int]:
        """The steps that have a score: the best first, the newest of equals."""
        scored = [(score, step) for step, score in self._scores.items() if score is not None]
        return [step for _, step in sorted(scored, reverse=True)]

    def _position_file(self, step: int) -> Path:
        return self.directory / str(step) / "data" / "metadata"

    def _read_position(self, step: int) -> dict[str, Any]:
        """What is saved beside the state; ValueError or OSError if it is damaged."""
        position = json.loads(self._position_file(step).read_text())
        checksums.check_seal(position)
        return position

    def _read_score(self, step: int) -> None:
        try:
            position = self._read_position(step)
            self._scores[step] = position["score"]
            if not position.get("evaluated", True):
                self._unevaluated.add(step)
        except (OSError, ValueError, KeyError, TypeError):
            say(f"NOTE: {self.directory / str(step)} has lost its score: it does not compete for the best")
            self._scores[step] = None

    def _first(
        self, steps: Iterable[int], restore: Callable[[int], Any], cure: str
    ) -> tuple[int, Any, dict[int, DamagedError]]:
        """Return the first step that can be restored, what it holds, and those before it with what is wrong.

        `cure` is what the UserError proposes if there is none.
        """
        damaged: dict[int, DamagedError] = {}
        for step in steps:
            try:
                return step, restore(step), damaged
            except DamagedError as error:
                damaged[step] = error
        reasons = "\n".join(f"  {error}" for error in damaged.values())
        raise UserError(f"no checkpoint can be restored:\n{reasons}\n{cure}")

    def _set_aside(self, step: int) -> Path:
        """Rename a damaged checkpoint, on one process for all, so that it is neither overwritten nor deleted."""
        path = self.directory / str(step)
        aside = path.with_name(f"{step}.damaged")
        multihost_utils.sync_global_devices(f"before {path} is set aside")
        if jax.process_index() == 0:
            with self._writing():
                for count in range(2, 1000):
                    if not aside.exists():
                        break
                    aside = path.with_name(f"{step}.damaged-{count}")
                path.rename(aside)
        multihost_utils.sync_global_devices(f"after {path} is set aside")
        del self._scores[step]
        self._manager.reload()
        return aside

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a disk that is full or cannot be written into a message.

        Not to be interrupted: Orbax runs event loops, and an exception out of their middle closes them.
        """
        try:
            with signals.deferred():
                yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = orbax_errors.refusal(error)
            if reason is None:
                raise
            raise (_PassingError if reason.passing else UserError)(
                f"cannot write checkpoints to {self.directory}: {reason.reason}\n"
                "Free some space or give another --workdir; the checkpoints saved before are complete."
            ) from error
