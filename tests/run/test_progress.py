"""What a run says of its progress: speeds of steps that have finished, and nothing that was not measured."""

import io
import json
import math
import time
import types

import jax
import jax.numpy as jnp
import pytest
from helpers.trees import write_tree

from configs import dwa
from mtlflax import experiment, train
from mtlflax.run import progress as progress_module
from mtlflax.run.progress import Progress, format_seconds
from mtlflax.run.training_log import TrainingLog


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_counts_the_steps_while_the_clock_runs(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(100, initial=40, batch_size=8, stream=stream, every=10)
    now[0] += 50  # compiling
    progress.update(41)
    assert progress.images_per_second == 0
    progress.start()
    for step in range(42, 52):  # two seconds a step
        now[0] += 2
        progress.update(step)
    assert progress.images_per_second == pytest.approx(4)
    progress.pause()
    now[0] += 20  # an evaluation
    assert progress.images_per_second == pytest.approx(4)
    progress.describe("depth 0.1")
    progress.update(51)
    # 40 s for 10 steps, the evaluation counted: 49 more take 196 s.
    assert stream.getvalue().splitlines()[-1] == "step 51/100 depth 0.1 · 4.0 images/s · 3m16s left"


def test_progress_is_a_bar_in_a_terminal_and_nothing_when_disabled():
    terminal, nothing = Terminal(), Terminal()
    for stream, enabled in ((terminal, True), (nothing, False)):
        progress = Progress(10, batch_size=1, stream=stream, enabled=enabled)
        progress.update(10)
        progress.write("a line")
        progress.close()
    assert "100%" in terminal.getvalue()
    assert "a line" in terminal.getvalue()
    assert nothing.getvalue() == ""


def test_format_seconds():
    given = [1.5, 90, 7260, math.nan]
    assert [format_seconds(s) for s in given] == ["1s", "1m30s", "2h01m", "?"]


def test_nothing_is_said_that_was_not_measured():
    stream = io.StringIO()
    progress = Progress(2, batch_size=8, stream=stream)
    progress.update(1)
    progress.update(2)
    assert stream.getvalue() == "step 1/2\nstep 2/2\n"


def work(x):
    """Some tens of milliseconds."""
    return jax.lax.fori_loop(0, 60, lambda _, y: jnp.tanh(y @ y), jnp.full((256, 256), x)).sum()


def test_the_speed_of_a_run_is_that_of_finished_steps(tmp_path, monkeypatch):
    """Steps that JAX dispatches in no time and that take some: none is counted before it has."""
    make = experiment.make_train_step

    def make_slow(*arguments):
        step = make(*arguments)

        def slow(state, batch):
            state, metrics = step(state, batch)
            return state, metrics | {"gradient_norm": metrics["gradient_norm"] + 0 * work(metrics["gradient_norm"])}

        return slow

    alone = jax.jit(work)
    seconds = []
    for _ in range(4):
        began = time.monotonic()
        alone(1e-3).block_until_ready()
        seconds.append(time.monotonic() - began)
    monkeypatch.setattr(experiment, "make_train_step", make_slow)
    config = dwa.get_config("quick")
    config.data.name, config.data.root = "cityscapes", str(write_tree(tmp_path / "tree", train=20, val=4))
    config.update(batch_size=4, epochs=1.0, log_every=1)
    config.data.size = (32, 64)
    config.model.name = "helpers.tiny:tiny"
    train.train_and_evaluate(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    speeds = [line.get("train/images_per_second") for line in lines if "train/loss/depth" in line]
    assert speeds[0] is None
    assert all(0 < speed < 1.5 * 4 / min(seconds) for speed in speeds[1:]), (speeds, seconds)
    assert len(speeds) == 5


def test_a_weighting_that_never_runs_is_said():
    """An epoch of steps in none of which both tasks have labels; a step with both begins the count anew."""
    said: list[str] = []
    bar = types.SimpleNamespace(write=said.append)
    log = TrainingLog(["a", "b"], schedule=None, checkpoints=None, writer=None, progress=bar, steps_per_epoch=3)
    log._count_incomplete([False, False, True, False, False])
    assert said == []
    log._count_incomplete([False, False])
    assert len(said) == 1
    assert said[0].startswith("NOTE: none of the last 3 steps had labels for all tasks")
