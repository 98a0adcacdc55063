"""Train and evaluate one config in one workdir, from start to end."""

import functools
import math
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mtlflax import experiment as experiments
from mtlflax.data import field_json, loader
from mtlflax.errors import UserError
from mtlflax.evaluate import Evaluation, Evaluator, make_evaluator
from mtlflax.experiment import Experiment
from mtlflax.files import write_text
from mtlflax.run import evaluations, parameter_table, signals, summary, writers
from mtlflax.run import workdir as workdirs
from mtlflax.run.accounting import Accounting
from mtlflax.run.checkpoint import Checkpoints
from mtlflax.run.metric_writer import MetricWriter
from mtlflax.run.prepare_data import prepare_data
from mtlflax.run.progress import Progress, format_seconds
from mtlflax.run.signals import Stopped
from mtlflax.run.start_from import start_from
from mtlflax.run.stopping import Vote
from mtlflax.run.training_log import TrainingLog
from mtlflax.training import parallel
from mtlflax.training.accumulate import in_parts
from mtlflax.training.diagnostics import make_diagnostics
from mtlflax.training.parallel import say
from mtlflax.training.step import TrainState


def train_and_evaluate(config: ConfigDict, workdir: str | Path, *, extend: bool = False) -> dict[str, float]:
    """Train; resume from the latest checkpoint in `workdir` if there is one.

    With `extend`, the config may have more epochs than the run that is there, which is trained on: from its latest
    checkpoint, at the learning rate that a run of so many epochs has at that step.

    The config is one of a config file (see `configs/common.py`); the README says what is written to the workdir.
    Returns the last evaluation, `split/task/metric` → value.

    Raises:
        UserError: anything the user can put right, with how.
        Stopped: at SIGTERM or Ctrl-C, to any process of the run: all have saved the same step.
    """
    try:
        with ExitStack() as stack:
            if jax.process_count() > 1:  # one that leaves by itself would leave the others waiting
                stack.enter_context(signals.deferred())
            return _train(config, Path(workdir), stack, extend)
    except Stopped as stopped:
        saved = any(path.name.isdigit() for path in (Path(workdir) / "checkpoints").glob("*"))
        go_on = f"resume from the checkpoint saved in {workdir}" if saved else "start: nothing was trained yet"
        say(f"stopped by {stopped}; run the same command again to {go_on}")
        raise


def evaluate_checkpoint(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Evaluate the best checkpoint in `workdir`, by `config.best`, or the latest if none has competed.

    `batch_size` may differ from the run's, as it changes no result, and so may `evaluate`. Writes `results.json`, and
    predictions to `evaluate.export`; else as `train_and_evaluate`.
    """
    workdir = Path(workdir)
    record = workdirs.load(workdir)
    batch_size = config.batch_size
    config = config.copy_and_resolve_references()
    config.batch_size = record["config"].get("batch_size", batch_size)  # so that epochs are the run's
    experiment = experiments.build(config)
    fields = field_json.to_json(experiment.fields)
    workdirs.compare(experiment.config, workdir, fields, free=("evaluate.size",), **experiment.facts)
    checkpoints = Checkpoints(workdir, read_only=True)
    mesh = parallel.make_mesh()
    prepare_data(experiment, config.data.name, mesh)
    step, state = checkpoints.restore_best(_init(experiment, mesh))
    say(f"evaluating {checkpoints.directory / str(step)}")
    export = Path(config.evaluate.export).expanduser() if config.evaluate.export else None
    found = _evaluate_all(experiment, make_evaluator(experiment, mesh, batch_size, export), state)
    say(summary.summary(experiment.tasks, found.results, step, found.size, workdir))
    if export:
        say(f"predictions for {len(found.frames.names)} frames in {export}, in Cityscapes' official format")
    _write(workdir, evaluations.LAST, experiment, step, found, finished=evaluations.finished(workdir))
    return found.results


def _train(config: ConfigDict, workdir: Path, stack: ExitStack, extend: bool) -> dict[str, float]:
    started = time.monotonic()

    # ---------------------------------------------------------------- data, network, steps
    first_process = jax.process_index() == 0
    if first_process:
        stack.enter_context(workdirs.lock(workdir))
    resuming = workdirs.has_checkpoint(workdir)
    experiment = experiments.build(config)
    if experiment.config.evaluate.export:
        raise UserError("config: evaluate.export is for --mode=evaluate: give it when the run has been trained")
    mesh = parallel.make_mesh()
    if (batch_size := experiment.config.batch_size) % (mesh.size * experiment.config.accumulate):
        parts = f" × config.accumulate, {experiment.config.accumulate}" if experiment.config.accumulate > 1 else ""
        raise UserError(
            f"config.batch_size is {batch_size}: must be a multiple of the number of devices, {mesh.size}{parts}"
        )
    encoder, origin = (None, "from a checkpoint") if resuming else experiments.open_encoder(experiment.config)
    fields = field_json.to_json(experiment.fields)
    workdirs.agree(experiment.config, fields=fields, **experiment.facts)
    if extend:
        workdirs.extend(workdir, experiment.config, fields, **experiment.facts)
    workdirs.record(experiment.config, workdir, fields=fields, encoder=origin, **experiment.facts)
    prepare_data(experiment, config.data.name, mesh)
    say(f"encoder: {experiment.config.model.backbone}, {origin}")
    config, total = experiment.config, experiment.total_steps
    evaluate_every = experiment.steps(config.evaluate_every)
    checkpoint_every = experiment.steps(config.checkpoint.every)
    train_step = experiment.make_train_step(mesh)
    diagnose_every = config.diagnostics.every
    model = in_parts(experiment.model, config.accumulate)
    diagnose = make_diagnostics(model, experiment.tasks, experiment.prepare_batch)
    diagnose = parallel.map_step(diagnose, mesh, via=config.parallel)
    vote = Vote(mesh)
    evaluate = make_evaluator(experiment, mesh, config.batch_size, before_batch=vote.check)

    # ---------------------------------------------------------------- state: resumed, or at step 0
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    stack.callback(checkpoints.close)
    state = _init(experiment, mesh, encoder)
    if config.model.freeze:
        frozen = [p for p in flatten_dict(state.params, sep="/") if experiments.in_encoders(experiment.model, p)]
        say(f"frozen: {', '.join([f'{len(frozen)} arrays', *frozen[:1], *frozen[-1:]])}")
        if not (config.model.start_from or config.model.pretrained):
            say("NOTE: what is frozen was drawn at random: give config.model.start_from or config.model.pretrained")
    if config.model.start_from and not resuming:
        if Path(config.model.start_from).resolve() == workdir.resolve():
            raise UserError(f"config: model.start_from is {workdir}, the run itself: give another run's workdir")
        state, origin = start_from(experiment, Path(config.model.start_from), state)
        say(f"network: {origin}")
    if first_process:
        write_text(workdir / "parameters.txt", parameter_table.parameter_table(state.params) + "\n")
    say(parameter_table.module_table(state.params))
    first_step, state = checkpoints.restore_latest(state) or (0, state)
    if first_process and first_step < total:
        evaluations.not_finished(workdir)
    if first_step:
        say(f"resuming from {checkpoints.directory / str(first_step)}")
    if config.best.from_epoch > config.epochs:
        say(
            f"NOTE: no checkpoint competes for the best: best.from_epoch is {config.best.from_epoch:g}, of "
            f"{config.epochs:g} epochs; evaluation and prediction will take the latest"
        )
    epochs = f"{config.epochs:g} epoch{'' if config.epochs == 1 else 's'} of {experiment.steps_per_epoch} steps"
    say(f"training to step {total} ({epochs}) in {workdir}")

    # ---------------------------------------------------------------- the loop
    stack.enter_context(signals.deferred())
    progress = Progress(total, initial=first_step, batch_size=config.batch_size, enabled=first_process)
    stack.callback(progress.close)
    others = functools.partial(writers.make, config.writers, config, workdir)
    writer = MetricWriter(workdir, step=first_step, enabled=first_process, others=others)
    stack.callback(writer.close)
    names = [task.name for task in experiment.tasks]
    log = TrainingLog(names, experiment.schedule, checkpoints, writer, progress, experiment.steps_per_epoch)
    batches = stack.enter_context(
        loader.train_batches(
            experiment.training,
            experiment.train_fields,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=experiment.augment,
            start_step=first_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=config.data.num_threads,
            prefetch=config.data.prefetch,
            num_workers=config.data.num_workers,
            on_error=config.data.on_error,
        )
    )
    evaluated: Evaluation | None = None
    spent = Accounting(writer.removed_steps)

    def save(step: int, state: TrainState, **score: Any) -> None:
        with spent.on("checkpoints"):
            checkpoints.save(step, state, config=config.to_dict(), **score)

    def account(step: int) -> None:
        with spent.on("checkpoints"):
            checkpoints.wait()
        progress.close()
        writer.scalars(step, spent.scalars())
        say(f"time: {spent}")

    # The order matters: evaluate and save the state of this step, and only then take the next batch. So a checkpoint of
    # step n stands for n batches taken and for all that was written up to n, and resuming is exact.
    for step in range(first_step, total + 1):
        if step > first_step or checkpoints.awaits_evaluation(step):
            evaluating = step == total or step % evaluate_every == 0
            if evaluating or step % checkpoint_every == 0:
                log.read(step)  # waits for the steps under way
                progress.pause()
                score = None
                if evaluating:
                    try:
                        with spent.on("evaluation"):
                            evaluated = evaluate(state, experiment.chosen_on)
                        picture = summary.panel(experiment.tasks, *evaluated.sample) if config.pictures else None
                    except Exception as error:  # a signal, a broken file, a task's mistake: what is trained is kept
                        # Of several processes, all stop at a signal; an error may be of one alone.
                        if isinstance(error, Stopped) or jax.process_count() == 1:
                            save(step, state, evaluated=False)
                            account(step)
                        raise
                    writer.scalars(step, evaluated.results)
                    if picture is not None:
                        writer.picture(step, experiment.chosen_on, picture)
                    headline = summary.headline(experiment.tasks, evaluated.results)
                    progress.write(f"step {step} at {evaluated.size[0]}×{evaluated.size[1]}: {headline}")
                    score = _score(experiment, step, evaluated.results)
                    for which in [evaluations.LAST] + [evaluations.BEST] * checkpoints.would_be_best(score):
                        _write(workdir, which, experiment, step, evaluated)
                save(step, state, score=score)
        if step == total:
            break
        try:
            vote.check()
        except Stopped:
            log.read(step)
            if step:
                save(step, state)
            account(step)
            raise

        if step > first_step:
            progress.start()
        with spent.on("input"):
            batch = parallel.shard_batch(next(batches), mesh)
        with spent.on("compilation") if step == first_step else nullcontext():
            diagnosis = diagnose(state, batch) if diagnose_every and step % diagnose_every == 0 else None
            state, metrics = train_step(state, batch)
            if step == first_step:
                jax.block_until_ready(metrics)
        if step == first_step:
            progress.write(f"train step compiled in {spent.seconds['compilation']:.0f}s")
            progress.update(step + 1)
        log.add(step + 1, metrics, diagnosis)
        if step % config.log_every == 0:
            log.read(step)
            checkpoints.check()

    # ---------------------------------------------------------------- the end
    account(total)
    step = total
    if len(experiment.evaluated) > 1:  # on what nothing was chosen on, too
        step, state = checkpoints.restore_best(state)
        evaluated = _evaluate_all(experiment, evaluate, state)
        if checkpoints.best_step is not None:
            _write(workdir, evaluations.BEST, experiment, step, evaluated)
    elif evaluated is None:  # the run was at its end when this process started
        evaluated = _evaluate_all(experiment, evaluate, state)
    _write(workdir, evaluations.LAST, experiment, step, evaluated, finished=True)
    signals.clear()  # one that came too late: the run is at its end
    say(summary.summary(experiment.tasks, evaluated.results, step, evaluated.size, workdir))
    if (best := checkpoints.best_step) is not None:
        say(f"best {config.best.metric}: step {best}, in {checkpoints.directory / str(best)}")
    say(f"took {format_seconds(time.monotonic() - started)}")
    return evaluated.results


def _init(experiment: Experiment, mesh: Mesh, encoder: Any = None) -> TrainState:
    # Made where it is used, not copied there.
    return jax.jit(experiment.init, out_shardings=parallel.replicated(mesh))(encoder)


def _score(experiment: Experiment, step: int, results: dict[str, float]) -> float | None:
    """Return what this evaluation counts for the best checkpoint: more is better; None outside the range of epochs."""
    best = experiment.config.best
    value = results.get(best.metric, math.nan)  # a class may be in neither the truth nor the predictions
    if step < round(best.from_epoch * experiment.steps_per_epoch) or math.isnan(value):
        return None
    return value if best.mode == "max" else -value


def _evaluate_all(experiment: Experiment, evaluate: Evaluator, state: TrainState) -> Evaluation:
    """Evaluate a state on every split: all results; the rest is the last split's, `val`."""
    found = [evaluate(state, split) for split in experiment.evaluated]
    return found[-1]._replace(results={name: value for each in found for name, value in each.results.items()})


def _write(
    workdir: Path,
    which: str,
    experiment: Experiment,
    step: int,
    found: Evaluation,
    *,
    finished: bool = False,
) -> None:
    if jax.process_index() == 0:
        facts: dict[str, Any] = {"step": step, "epoch": step / experiment.steps_per_epoch, "finished": finished}
        facts |= {"data": experiment.config.data.name, "size": list(found.size)}
        facts |= {f"num_{split}": len(source) for split, source in experiment.evaluated.items()}
        evaluations.write(workdir, which, facts, found.results, found.frames)
