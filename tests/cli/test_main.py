"""A run as a user starts it: what it says and writes, resumed, evaluated, on many devices and in two processes."""

import json
import re
import shutil
import socket

import jax
import numpy as np
import pytest
from helpers.commands import assert_same_run, call, final_state, flags, history, results, run, start
from helpers.trees import write_tree

from mtlflax import metrics
from mtlflax.run import evaluations


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("cityscapes"))


@pytest.fixture(scope="module")
def whole_run(tree, tmp_path_factory):
    """A run that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, run(flags(tree, workdir))


def test_a_run_says_and_writes_what_it_did(whole_run):
    workdir, output = whole_run
    for said in ("DATA: cityscapes", "val/segmentation/miou", "val/depth/rmse_constant", "compiled in", str(workdir)):
        assert said in output
    found = results(workdir)
    assert found["step"] == 30
    assert 0 <= found["val/segmentation/miou"] <= 1
    assert found["val/depth/rmse"] < 3 * found["val/depth/rmse_constant"]
    config = json.loads((workdir / "config.json").read_text())
    assert config["config"]["data"]["name"] == "cityscapes"
    assert config["versions"]["jax"]
    lines = history(workdir)
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert {"train/loss/depth", "train/weight/segmentation", "train/learning_rate"} <= set(lines[0])
    assert sum("val/depth/rmse" in line for line in lines) == 10
    spent = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    names = ("compilation", "input", "steps", "evaluation", "checkpoints")
    assert spent.keys() == {"step", "redone_steps", *(f"seconds/{name}" for name in names)}
    assert all(0 <= spent[f"seconds/{name}"] < 300 for name in names)
    assert (spent["step"], spent["redone_steps"]) == (30, 0)
    assert re.search(r"^time: \d+s compiling the train step, .* saving checkpoints$", output, re.MULTILINE)
    assert list((workdir / "tensorboard").glob("events*"))
    assert (workdir / "pictures" / "val_0000030.png").stat().st_size > 1000
    assert "total" in (workdir / "parameters.txt").read_text()
    steps, _ = final_state(workdir)
    assert {27, 30} <= set(steps)
    assert len(steps) <= 3  # the newest two and the best
    assert found["finished"] is True
    assert found["size"] == [32, 64]
    counted = evaluations.read_frames(workdir, evaluations.LAST)
    assert len(counted.names) == found["num_val"]
    assert metrics.miou(counted.total()["segmentation"]["confusion"]) == found["val/segmentation/miou"]
    best = json.loads((workdir / "best.json").read_text())
    assert best["val/segmentation/miou"] == max(line.get("val/segmentation/miou", 0) for line in lines[2:])
    counted = evaluations.read_frames(workdir, evaluations.BEST)
    assert metrics.miou(counted.total()["segmentation"]["confusion"]) == best["val/segmentation/miou"]


def test_the_best_epoch_is_chosen_on_frames_held_out(tmp_path_factory, tmp_path):
    tree = write_tree(tmp_path_factory.mktemp("larger"), train=16, val=2)
    extra = ["--config.data.validation=holdout", "--config.data.holdout=0.25", "--config.diagnostics.every=5"]
    extra += ["--config.epochs=2", "--config.best.from_epoch=0"]
    output = call(flags(tree, tmp_path / "run", *extra))
    assert "12 training and 4 held out of them and 2 validation frames" in output
    assert "best holdout/segmentation/miou: step" in output
    lines = history(tmp_path / "run")
    assert not [name for line in lines for name in line if name.startswith("val/")]
    scores = {line["step"]: line["holdout/segmentation/miou"] for line in lines if "holdout/segmentation/miou" in line}
    found = results(tmp_path / "run")
    assert scores[found["step"]] == max(scores.values()) == found["holdout/segmentation/miou"]
    assert {"val/segmentation/miou", "val/depth/rmse"} <= found.keys()
    assert (found["num_val"], found["num_holdout"]) == (2, 4)
    assert json.loads((tmp_path / "run" / "best.json").read_text()) == found | {"finished": False}
    diagnosed = [line for line in lines if "diagnostics/cosine/segmentation/depth" in line]
    assert [line["step"] for line in diagnosed] == [1, 6]
    assert all(-1 <= line["diagnostics/cosine/segmentation/depth"] <= 1 for line in diagnosed)
    evaluated = call(flags(tree, tmp_path / "run", *extra, "--mode=evaluate"))
    assert "val/segmentation/miou" in evaluated
    assert results(tmp_path / "run") == found


def test_frames_held_out_when_no_epoch_competes(tmp_path_factory, tmp_path):
    """The last state is evaluated on both, and nothing is called the best."""
    tree = write_tree(tmp_path_factory.mktemp("larger"), train=16, val=2)
    extra = ["--config.data.validation=holdout", "--config.data.holdout=0.25", "--config.epochs=1"]
    output = call(flags(tree, tmp_path / "run", *extra, "--config.best.from_epoch=2"))
    assert "NOTE: no checkpoint competes for the best" in output
    assert "best holdout/" not in output
    assert not (tmp_path / "run" / "best.json").exists()
    found = results(tmp_path / "run")
    assert (found["step"], found["finished"]) == (history(tmp_path / "run")[-1]["step"], True)
    assert {"val/segmentation/miou", "holdout/segmentation/miou"} <= found.keys()


def test_the_same_seed_gives_the_same_bits(whole_run, tree, tmp_path):
    run(flags(tree, tmp_path / "again"), JAX_ENABLE_COMPILATION_CACHE="false")  # compiled anew, too
    assert_same_run(whole_run[0], tmp_path / "again")


def test_resuming_a_finished_run_trains_no_further(whole_run, tree):
    before = final_state(whole_run[0])[1]
    written = (whole_run[0] / "results.json").read_text()
    run(flags(tree, whole_run[0], "--mode=evaluate"))  # writes the best's figures over those of the last
    output = run(flags(tree, whole_run[0]))
    assert "val/segmentation/miou" in output
    jax.tree.map(np.testing.assert_array_equal, before, final_state(whole_run[0])[1])
    assert (whole_run[0] / "results.json").read_text() == written


def test_evaluate_mode_gives_the_figures_of_the_best_checkpoint(whole_run, tree, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(whole_run[0], workdir)
    trained = results(workdir)
    assert "evaluating" in call(flags(tree, workdir, "--mode=evaluate", "--config.batch_size=1"))
    found = results(workdir)
    assert found["epoch"] / found["step"] == trained["epoch"] / trained["step"]  # epochs are the run's
    evaluations = {line["step"]: line for line in history(workdir) if "val/depth/rmse" in line}
    eligible = {s: e for s, e in evaluations.items() if s >= 6}
    best = max(eligible, key=lambda s: (eligible[s]["val/segmentation/miou"], s))
    assert found["step"] == best
    for name, value in evaluations[best].items():
        assert found[name] == pytest.approx(value, rel=1e-6), name  # another batch size groups float32 sums anew


def test_another_configuration_in_the_workdir_stops_and_names_the_keys(whole_run, tree):
    output = call(flags(tree, whole_run[0], "--config.optimizer.learning_rate=0.02"), code=1)
    assert "optimizer.learning_rate: 0.01 there, 0.02 here" in output


def test_without_its_configuration_a_run_is_not_resumed(whole_run, tree, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(whole_run[0], workdir)
    (workdir / "config.json").unlink()
    assert "but no config.json" in call(flags(tree, workdir, "--config.seed=7"), code=1)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_pmap_and_shard_map_on_four_devices_make_the_run_of_one(whole_run, tree, tmp_path):
    for via in ("shard_map", "pmap"):
        workdir = tmp_path / via
        run(flags(tree, workdir, f"--config.parallel={via}"), JAX_NUM_CPU_DEVICES="4")
        a, b = final_state(whole_run[0])[1], final_state(workdir)[1]
        jax.tree.map(close, a["batch_stats"], b["batch_stats"])
        ends = [history(w)[-1] for w in (whole_run[0], workdir)]
        for name, value in ends[0].items():
            assert ends[1][name] == pytest.approx(value, rel=0.02, abs=1e-4), name


@pytest.mark.parametrize("via", ["shard_map", "pmap"])
def test_two_processes_make_the_run_of_one(whole_run, tree, tmp_path, via):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    processes = [
        start(
            flags(tree, tmp_path / "two", f"--config.parallel={via}"),
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
    assert "val/segmentation/miou" in outputs[0]
    assert "val/segmentation/miou" not in outputs[1]  # one process speaks
    one, two = history(whole_run[0])[-1], history(tmp_path / "two")[-1]
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=0.02, abs=1e-4), name


def test_a_run_is_evaluated_on_another_number_of_devices(whole_run, tree, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(whole_run[0], workdir)
    run(flags(tree, workdir, "--mode=evaluate"))
    one = results(workdir)
    run(flags(tree, workdir, "--mode=evaluate"), JAX_NUM_CPU_DEVICES="3")
    three = results(workdir)
    assert one.keys() == three.keys()
    for name in (name for name in one if name.startswith("val/")):
        assert three[name] == pytest.approx(one[name], rel=1e-5), name
