"""Train and evaluate one config in one workdir, from start to end."""

import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mtlflax import data
from mtlflax import experiment as experiments
from mtlflax.data import field_json, loader, samples
from mtlflax.errors import UserError
from mtlflax.evaluate import make_evaluator
from mtlflax.experiment import Experiment
from mtlflax.files import write_json, write_text
from mtlflax.run import parameter_table, signals, summary
from mtlflax.run import workdir as workdirs
from mtlflax.run.checkpoint import Checkpoints
from mtlflax.run.metric_writer import MetricWriter
from mtlflax.run.progress import Progress, format_seconds
from mtlflax.run.training_log import TrainingLog
from mtlflax.training import parallel
from mtlflax.training.step import TrainState, make_train_step


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Train; resume from the latest checkpoint in `workdir` if there is one.

    The config is one of a config file (see `configs/common.py`); the README says what is written to the workdir.
    Returns the last evaluation, `val/task/metric` → value. Raises UserError for anything the user can put right, with
    how.
    """
    with ExitStack() as stack:
        return _train(config, Path(workdir), stack)


def evaluate_checkpoint(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Evaluate the best checkpoint in `workdir`, by `config.best`, or the latest if none has competed.

    `batch_size` may differ from the run's: it changes no result. Writes `results.json`; else as `train_and_evaluate`.
    """
    workdir = Path(workdir)
    record = workdirs.load(workdir)
    batch_size = config.batch_size
    config = config.copy_and_resolve_references()
    config.batch_size = record["config"].get("batch_size", batch_size)  # so that epochs are the run's
    experiment = experiments.build(config)
    workdirs.compare(experiment.config, workdir, field_json.to_json(experiment.fields), **experiment.facts)
    checkpoints = Checkpoints(workdir, read_only=True)
    mesh = parallel.make_mesh()
    _open(experiment, config.data.name, mesh)
    step, state = checkpoints.restore_best(_init(experiment, mesh))
    _say(f"evaluating {checkpoints.directory / str(step)}")
    results, _ = make_evaluator(experiment, mesh, batch_size)(state)
    _say(summary.summary(experiment.tasks, results, step, workdir))
    _write_results(workdir, experiment, step, results)
    return results


def _train(config: ConfigDict, workdir: Path, stack: ExitStack) -> dict[str, float]:
    started = time.monotonic()

    # ---------------------------------------------------------------- data, network, steps
    first_process = jax.process_index() == 0
    if first_process:
        stack.enter_context(workdirs.lock(workdir))
    resuming = workdirs.has_checkpoint(workdir)
    experiment = experiments.build(config)
    mesh = parallel.make_mesh()
    if (batch_size := experiment.config.batch_size) % mesh.size:
        raise UserError(f"config.batch_size is {batch_size}: must be a multiple of the number of devices, {mesh.size}")
    encoder, origin = (None, "from a checkpoint") if resuming else experiments.open_encoder(experiment.config)
    fields = field_json.to_json(experiment.fields)
    workdirs.record(experiment.config, workdir, fields=fields, encoder=origin, **experiment.facts)
    _open(experiment, config.data.name, mesh)
    _say(f"encoder: {experiment.config.model.backbone}, {origin}")
    config, total = experiment.config, experiment.total_steps
    evaluate_every = experiment.steps(config.evaluate_every)
    checkpoint_every = experiment.steps(config.checkpoint.every)
    train_step = make_train_step(experiment.model, experiment.tasks, experiment.optimizer, experiment.method)
    train_step = parallel.map_step(train_step, mesh, via=config.parallel, donate_state=True)
    evaluate = make_evaluator(experiment, mesh, config.batch_size)

    # ---------------------------------------------------------------- state: resumed, or at step 0
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    stack.callback(checkpoints.close)
    state = _init(experiment, mesh, encoder)
    if first_process:
        write_text(workdir / "parameters.txt", parameter_table.parameter_table(state.params) + "\n")
    _say(parameter_table.module_table(state.params))
    first_step, state = checkpoints.restore_latest(state) or (0, state)
    if first_step:
        _say(f"resuming from {checkpoints.directory / str(first_step)}")
    if config.best.from_epoch > config.epochs:
        _say(
            f"NOTE: no checkpoint competes for the best: best.from_epoch is {config.best.from_epoch:g}, of "
            f"{config.epochs:g} epochs; evaluation and prediction will take the latest"
        )
    _say(f"training to step {total} ({config.epochs:g} epochs of {experiment.steps_per_epoch} steps) in {workdir}")

    # ---------------------------------------------------------------- the loop
    stack.enter_context(signals.deferred())
    progress = Progress(total, initial=first_step, batch_size=config.batch_size, enabled=first_process)
    stack.callback(progress.close)
    writer = MetricWriter(workdir, step=first_step, enabled=first_process)
    stack.callback(writer.close)
    names = [task.name for task in experiment.tasks]
    log = TrainingLog(names, experiment.schedule, checkpoints, writer, progress, experiment.steps_per_epoch)
    batches = stack.enter_context(
        loader.train_batches(
            experiment.training,
            experiment.batch_fields,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=experiment.augment,
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
                        picture = summary.panel(experiment.tasks, *sample) if config.pictures else None
                    except Exception:  # a broken file, a task's mistake: what has been trained is kept all the same
                        checkpoints.save(step, state, config=config.to_dict())
                        raise
                    writer.scalars(step, results)
                    if picture is not None:
                        writer.picture(step, "val", picture)
                    _write_results(workdir, experiment, step, results)
                    progress.write(f"step {step}: " + summary.headline(experiment.tasks, results))
                    score = _score(experiment, step, results)
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
        _write_results(workdir, experiment, total, results)
    _say(summary.summary(experiment.tasks, results, total, workdir))
    if (best := checkpoints.best_step) is not None:
        _say(f"best {config.best.metric}: step {best}, in {checkpoints.directory / str(best)}")
    _say(f"took {format_seconds(time.monotonic() - started)}")
    return results


def _open(experiment: Experiment, asked_for: str, mesh: Mesh) -> None:
    """Say which data set this is, so that nobody takes one for another, and make it ready to be read."""
    config = experiment.config
    if config.data.name == "streets":
        how = "For Cityscapes set CITYSCAPES_DATASET or --config.data.root to the folder of leftImg8bit, gtFine, …"
        if asked_for == "streets":
            how = "The config asks for it: data.name is streets (as with the argument quick)."
        rule = "=" * 110
        _say(f"{rule}\nDATA: streets, the embedded data set of rendered scenes: NOT Cityscapes.\n      {how}\n{rule}")
    else:
        where = f" at {config.data.root}" if config.data.root else ""
        _say(f"DATA: {config.data.name}{where}, read at {tuple(config.data.size)}")
    for source in (experiment.training, experiment.validation):
        if prepare := getattr(source, "prepare", None):
            prepare()
    image = {"image": experiment.fields["image"]}
    size = samples.Checked(experiment.training, image)[0]["image"].shape[:2]
    if size != experiment.size:  # prediction scales pictures to data.size
        raise UserError(f"the training frames are {size[0]}×{size[1]}: give '--config.data.size={size}', their size")
    counts = f"{len(experiment.training)} training and {len(experiment.validation)} validation frames"
    _say(f"{counts}; {mesh.size} × {mesh.devices.flat[0].device_kind}")
    if experiment.facts["train_frames"] == experiment.facts["val_frames"]:
        _say("NOTE: the training and the validation frames have the same names: are they the same frames?")
    for note in data.check_truth(experiment.training, {task.name: task.fields for task in experiment.tasks}):
        _say(f"NOTE: {note}")


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


def _write_results(workdir: Path, experiment: Experiment, step: int, results: dict[str, float]) -> None:
    if jax.process_index() == 0:
        facts = {"step": step, "epoch": step / experiment.steps_per_epoch, "data": experiment.config.data.name}
        write_json(workdir / "results.json", {**facts, "num_val": len(experiment.validation), **results})


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
