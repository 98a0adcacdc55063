"""Trains and evaluates one configuration in one workdir, from start to end."""

import itertools
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mtlflax import configuration
from mtlflax.data import loader
from mtlflax.data.transforms import Augment
from mtlflax.errors import UserError
from mtlflax.evaluate import Sample, make_evaluator
from mtlflax.experiment import Experiment, build
from mtlflax.files import write_json, write_text
from mtlflax.run import parameter_table, signals
from mtlflax.run import workdir as runs
from mtlflax.run.checkpoint import Checkpoints
from mtlflax.run.metric_writer import MetricWriter
from mtlflax.run.progress import Progress, format_seconds
from mtlflax.tasks import pictures
from mtlflax.training import parallel
from mtlflax.training.step import make_train_step


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Trains, going on from the workdir's last checkpoint where there is one.

    Args:
        config: from a config file; see `configs/common.py`.
        workdir: where everything is written; the README says what it holds.

    Returns:
        The last evaluation: `val/task/metric` → value.

    Raises:
        UserError: anything the user can put right, with how.
    """
    with ExitStack() as stack:
        return _train(config, Path(workdir), stack)


def evaluate_checkpoint(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Evaluates the workdir's best checkpoint, by `config.best`, or its newest where none has competed.

    Writes `results.json` and returns and raises as `train_and_evaluate`.
    """
    workdir = Path(workdir)
    runs.load(workdir)  # a clear error where there is no run
    setup = _set_up(config, begun=True)
    runs.compare(setup.config, workdir, free=("batch_size",), **setup.facts)
    checkpoints = Checkpoints(workdir, read_only=True)
    step, state = checkpoints.restore_best(_init(setup))
    _say(f"evaluating {checkpoints.directory / str(step)}")
    evaluate = make_evaluator(setup.experiment, setup.validation, setup.mesh, setup.config)
    results, _ = evaluate(state)
    _say(_summary(results, step, workdir))
    _write_results(workdir, setup, step, results)
    return results


class _Setup(NamedTuple):
    config: ConfigDict  # resolved
    mesh: Mesh
    training: Any
    validation: Any
    augment: Augment
    experiment: Experiment
    encoder: tuple[Any, str]  # pretrained variables or None, and where they are from
    facts: dict[str, Any]


def _set_up(config: ConfigDict, *, begun: bool) -> _Setup:
    asked_for = config.data.name == "streets"
    config = configuration.resolve(config)
    mesh = parallel.make_mesh()
    build(config, num_frames=2**31)  # names what is wrong before any data is read or rendered
    augment = configuration.augmentation(config)
    encoder = (None, "from a checkpoint") if begun else configuration.open_encoder(config)
    _say(configuration.describe_data(config, asked_for=asked_for))
    training = configuration.open_data(config, "train")
    validation = configuration.open_data(config, "val")
    experiment = build(config, len(training))
    facts = {
        "num_train": len(training),
        "num_val": len(validation),
        "train_frames": configuration.describe_frames(training),
        "val_frames": configuration.describe_frames(validation),
    }
    kind = mesh.devices.flat[0].device_kind
    _say(f"{len(training)} training and {len(validation)} validation frames; {mesh.size} × {kind}")
    _say(f"encoder: {config.model.backbone}, {encoder[1]}")
    return _Setup(config, mesh, training, validation, augment, experiment, encoder, facts)


def _init(setup: _Setup) -> Any:
    # Made where it is used, not copied there.
    return jax.jit(setup.experiment.init, out_shardings=parallel.replicated(setup.mesh))(setup.encoder[0])


def _train(config: ConfigDict, workdir: Path, stack: ExitStack) -> dict[str, float]:
    started = time.monotonic()

    # ---------------------------------------------------------------- data, network, steps
    if jax.process_index() == 0:
        stack.enter_context(runs.lock(workdir))
    setup = _set_up(config, begun=runs.has_checkpoint(workdir))
    config, mesh, training, validation, augment, experiment, encoder, facts = setup
    configuration.check_batch_size(config, mesh.size)
    runs.record(config, workdir, encoder=encoder[1], **facts)
    total = experiment.total_steps
    evaluate_every = experiment.steps(config.evaluate_every)
    checkpoint_every = experiment.steps(config.checkpoint.every)
    train_step = parallel.map_step(
        make_train_step(experiment.model, experiment.tasks, experiment.optimizer, experiment.method),
        mesh,
        via=config.parallel,
        out_specs=(parallel.REPLICATED, parallel.REPLICATED),
        donate_state=True,
    )
    evaluate = make_evaluator(experiment, validation, mesh, config)

    # ---------------------------------------------------------------- state: resumed, or fresh
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    stack.callback(checkpoints.close)
    state = _init(setup)
    if jax.process_index() == 0:
        write_text(workdir / "parameters.txt", parameter_table.parameter_table(state.params) + "\n")
    _say(parameter_table.module_table(state.params))
    first_step, state = checkpoints.restore_latest(state) or (0, state)
    if first_step:
        _say(f"resuming from {checkpoints.directory / str(first_step)}")
    if config.best.from_epoch > config.epochs:
        _say(
            f"NOTE: no checkpoint competes for the best: best.from_epoch is {config.best.from_epoch:g}, of "
            f"{config.epochs:g} epochs; evaluation and prediction will take the newest"
        )
    _say(f"training to step {total} ({config.epochs:g} epochs of {experiment.steps_per_epoch} steps) in {workdir}")

    # ---------------------------------------------------------------- the loop
    stack.enter_context(signals.deferred())
    progress = Progress(total, initial=first_step, batch_size=config.batch_size, enabled=jax.process_index() == 0)
    stack.callback(progress.close)
    writer = MetricWriter(workdir, step=first_step, enabled=jax.process_index() == 0)
    stack.callback(writer.close)
    log = _Log(setup, checkpoints, writer, progress)
    batches = stack.enter_context(
        loader.train_batches(
            training,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=augment,
            start_step=first_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=config.data.num_threads,
            prefetch=config.data.prefetch,
            num_workers=config.data.num_workers,
        )
    )
    results: dict[str, float] = {}

    # The order matters: evaluate and save the state of this step, and only then take the next batch. So a checkpoint of
    # step n stands for n batches taken and for all that was written up to n, and resuming is exact.
    for step in range(first_step, total + 1):
        signals.raise_pending()
        if step > first_step:
            evaluating = step == total or step % evaluate_every == 0
            if evaluating or step % checkpoint_every == 0:
                log.read(step)  # waits for the steps under way
                progress.pause()
                score = None
                if evaluating:
                    try:
                        results, sample = evaluate(state)
                    except UserError:  # a broken file: what has been trained is kept all the same
                        checkpoints.save(step, state, config=config.to_dict())
                        raise
                    writer.scalars(step, results)
                    if config.pictures:
                        writer.picture(step, "val", _panel(experiment, sample))
                    _write_results(workdir, setup, step, results)
                    progress.write(f"step {step}: " + _headline(results))
                    score = _score(setup, step, results)
                checkpoints.save(step, state, config=config.to_dict(), score=score)
        if step == total:
            break

        if step > first_step:
            progress.start()
        batch = parallel.shard_batch(next(batches), mesh)
        began = time.monotonic()
        state, metrics = train_step(state, batch)
        if step == first_step:  # the one that compiles
            jax.block_until_ready(metrics)
            progress.write(f"train step compiled in {time.monotonic() - began:.0f}s")
            progress.update(step + 1)
        log.add(step + 1, metrics)
        if step % config.log_every == 0:
            log.read(step)

    # ---------------------------------------------------------------- the end
    checkpoints.wait()
    progress.close()
    if not results:  # the run was at its end when this process started
        results, _ = evaluate(state)
        _write_results(workdir, setup, total, results)
    _say(_summary(results, total, workdir))
    if (best := checkpoints.best_step) is not None:
        _say(f"best {config.best.metric}: step {best}, in {checkpoints.directory / str(best)}")
    _say(f"took {format_seconds(time.monotonic() - started)}")
    return results


class _Log:
    """The metrics of the steps under way: they leave the device a window at a time, and are checked on the way."""

    def __init__(self, setup: _Setup, checkpoints: Checkpoints, writer: MetricWriter, progress: Progress) -> None:
        self._names = [task.name for task in setup.experiment.tasks]
        self._schedule = setup.experiment.schedule
        self._checkpoints, self._writer, self._progress = checkpoints, writer, progress
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step just dispatched, and waits for the step two before."""
        self._pending.append((step, metrics))
        if len(self._pending) > 2:  # bounds what is under way, without ever waiting for the newest
            finished, values = self._pending[-3]
            jax.block_until_ready(values)
            self._progress.update(finished)

    def read(self, through: int) -> None:
        """Writes the mean over the steps up to `through` that were not yet read.

        Raises:
            UserError: one of them is not finite.
        """
        ready = [entry for entry in self._pending if entry[0] <= through]
        if not ready:
            return
        self._pending = self._pending[len(ready) :]
        window = jax.device_get([metrics for _, metrics in ready])
        for (step, _), metrics in zip(ready, window, strict=True):
            self._check_finite(step, metrics)
        mean = {key: np.stack([m[key] for m in window]).mean(axis=0, dtype=np.float64) for key in window[0]}
        parts = [f"{name} {loss:.4f}" for name, loss in zip(self._names, mean["losses"], strict=True)]
        if "weights" in mean:
            parts = [f"{part} ×{weight:.2f}" for part, weight in zip(parts, mean["weights"], strict=True)]
        self._progress.describe(" · ".join(parts))
        self._progress.update(through)
        scalars: dict[str, float] = {}
        for key, kind in (("losses", "loss"), ("weights", "weight"), ("task_gradient_norms", "task_gradient_norm")):
            if key in mean:
                scalars |= {f"train/{kind}/{n}": v for n, v in zip(self._names, mean[key].tolist(), strict=True)}
        if "cosines" in mean:
            for (i, a), (j, b) in itertools.combinations(enumerate(self._names), 2):
                scalars[f"train/cosine/{a}/{b}"] = float(mean["cosines"][i, j])
        scalars |= {
            "train/gradient_norm": float(mean["gradient_norm"]),
            "train/learning_rate": float(self._schedule(through - 1)),
        }
        if speed := self._progress.images_per_second:
            scalars["train/images_per_second"] = speed
        self._writer.scalars(through, scalars)

    def _check_finite(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        bad = [
            f"the loss of {name} is {loss}"
            for name, loss in zip(self._names, metrics["losses"], strict=True)
            if not np.isfinite(loss)
        ]
        if not bad and not np.isfinite(metrics["gradient_norm"]):
            bad = [f"the gradient's norm is {metrics['gradient_norm']}, with finite losses"]
        if not bad:
            return
        self._checkpoints.wait()
        last = self._checkpoints.latest_step
        where = "there is none yet" if last is None else str(self._checkpoints.directory / str(last))
        raise UserError(
            f"step {step}: {' and '.join(bad)}. Training stopped.\n"
            f"The last good checkpoint: {where}\n"
            "A lower --config.optimizer.learning_rate (with a new --workdir) is the usual cure."
        )


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


def _score(setup: _Setup, step: int, results: dict[str, float]) -> float | None:
    """What this evaluation counts for the best checkpoint: more is better; None outside the range of epochs."""
    best = setup.config.best
    value = results.get(best.metric, math.nan)  # a class may be in neither the truth nor the predictions
    if step < round(best.from_epoch * setup.experiment.steps_per_epoch) or math.isnan(value):
        return None
    return value if best.mode == "max" else -value


def _write_results(workdir: Path, setup: _Setup, step: int, results: dict[str, float]) -> None:
    if jax.process_index() == 0:
        facts = {"step": step, "epoch": step / setup.experiment.steps_per_epoch}
        facts |= {"data": setup.config.data.name, "num_val": len(setup.validation)}
        write_json(workdir / "results.json", facts | results)


def _panel(experiment: Experiment, sample: Sample) -> np.ndarray:
    """A row a frame: the image, and for each task the truth and the prediction."""
    truths = {task.name: np.asarray(task.truth(sample.batch)) for task in experiment.tasks}
    rows = []
    for i, image in enumerate(sample.batch["image"]):
        row = [image]
        for task in experiment.tasks:
            row += [task.colours(truths[task.name][i]), task.colours(sample.predictions[task.name][i])]
        rows.append(row)
    return pictures.panel(rows)


_HEADLINES = ("val/segmentation/miou", "val/depth/rmse", "val/depth/rmse_constant")


def _headline(results: dict[str, float]) -> str:
    return "  ".join(f"{name} {results[name]:.4f}" for name in _HEADLINES if name in results) + _nothing(results)


def _nothing(results: dict[str, float]) -> str:
    """Says of which tasks the validation set has no truth at all."""
    deciding = {"segmentation": "val/segmentation/miou", "depth": "val/depth/rmse"}
    empty = [task for task, name in deciding.items() if math.isnan(results.get(name, 0))]
    return f"\nNOTE: no pixel of the validation set has a truth of {' or '.join(empty)}" if empty else ""


def _summary(results: dict[str, float], step: int, workdir: Path) -> str:
    lines = [f"\nstep {step}:"]
    lines += [f"  {name:<26} {results[name]:.4f}" for name in _HEADLINES if name in results]
    if results.get("val/depth/rmse_constant", 0) > 0:
        share = results["val/depth/rmse"] / results["val/depth/rmse_constant"]
        lines.append(f"  (depth RMSE is {share:.2f} of the best constant predictor's)")
    lines += [_nothing(results).strip()] if _nothing(results) else []
    lines.append(f"everything is in {workdir}: results.json, metrics.jsonl, pictures/, tensorboard/, checkpoints/")
    return "\n".join(lines)
