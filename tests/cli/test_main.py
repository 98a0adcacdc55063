"""The command as a user gives it: real processes, mistakes, kills, resumes, several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.trees import write_tree

REPOSITORY = Path(__file__).parents[2]
SIZE = "--config.data.size=(32,64)"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("cityscapes"))


def environment(**extra):
    kept = {k: v for k, v in os.environ.items() if k not in ("CITYSCAPES_DATASET", "XLA_FLAGS")}
    return kept | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"} | extra


def command(tree, workdir, *flags, config="dwa"):
    return [
        sys.executable,
        "tests/helpers/tiny_main.py",
        f"--config=configs/{config}.py",
        f"--workdir={workdir}",
        f"--config.data.root={tree}",
        "--config.model.name=tiny",
        "--config.model.pretrained=",
        "--config.batch_size=4",
        "--config.epochs=10",  # of 3 steps
        "--config.best.from_epoch=2",
        "--config.log_every=4",
        "--config.optimizer.learning_rate=0.01",
        SIZE,
        *flags,
    ]


def start(arguments, **extra):
    return subprocess.Popen(
        arguments,
        cwd=REPOSITORY,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(arguments, code=0, **extra):
    done = subprocess.run(
        arguments,
        cwd=REPOSITORY,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout
    assert code == 0 or "Traceback" not in done.stdout, done.stdout
    return done.stdout


def final_state(workdir):
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        return steps, manager.restore(steps[-1], args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]


def history(workdir):
    """metrics.jsonl without the speeds."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "per_second" not in k} for line in lines]


def assert_same_run(a, b):
    steps_a, state_a = final_state(a)
    steps_b, state_b = final_state(b)
    assert steps_a == steps_b
    assert_same_tree(state_a, state_b)
    assert history(a) == history(b)
    assert json.loads((a / "results.json").read_text()) == json.loads((b / "results.json").read_text())


def assert_same_tree(a, b, exact=True):
    import jax

    check = (
        np.testing.assert_array_equal
        if exact
        else (lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5))
    )
    jax.tree.map(check, a, b)


@pytest.fixture(scope="module")
def whole_run(tree, tmp_path_factory):
    """A run that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    output = run(command(tree, workdir))
    return workdir, output


def test_a_run_says_and_writes_what_it_did(whole_run):
    workdir, output = whole_run
    for said in ("DATA: cityscapes", "val/segmentation/miou", "val/depth/rmse_constant", "compiled in", str(workdir)):
        assert said in output
    results = json.loads((workdir / "results.json").read_text())
    assert results["step"] == 30
    assert 0 <= results["val/segmentation/miou"] <= 1
    assert results["val/depth/rmse"] < 3 * results["val/depth/rmse_constant"]
    config = json.loads((workdir / "config.json").read_text())
    assert config["config"]["data"]["name"] == "cityscapes"
    assert config["versions"]["jax"]
    lines = history(workdir)
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert {"train/loss/depth", "train/weight/segmentation", "train/learning_rate"} <= set(lines[0])
    assert sum("val/depth/rmse" in line for line in lines) == 10
    assert list((workdir / "tensorboard").glob("events*"))
    assert (workdir / "pictures" / "val_0000030.png").stat().st_size > 1000
    assert "total" in (workdir / "parameters.txt").read_text()
    steps, _ = final_state(workdir)
    assert {27, 30} <= set(steps)
    assert len(steps) <= 3  # the newest two and the best


def test_the_same_seed_gives_the_same_bits(whole_run, tree, tmp_path):
    run(command(tree, tmp_path / "again"), JAX_ENABLE_COMPILATION_CACHE="false")  # compiled anew, too
    assert_same_run(whole_run[0], tmp_path / "again")


def test_killed_at_any_moment_it_resumes_to_the_same_bits(whole_run, tree, tmp_path):
    """kill -9 at several moments: before and after the first checkpoints, while saving, near the end."""
    workdir = tmp_path / "killed"
    arguments = command(tree, workdir)
    killed_at = []
    for lines in (1, 3, 6, 9, 14):
        process = start(arguments)
        deadline = time.monotonic() + 120
        path = workdir / "metrics.jsonl"
        while process.poll() is None and time.monotonic() < deadline:
            if path.exists() and len(path.read_text().splitlines()) >= lines:
                break
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed_at.append(lines)
        process.communicate()
    assert len(killed_at) >= 2, "the run ended before it could be killed: make it longer"
    # What a kill can leave in the middle of a line.
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 99, "train/lo')
    output = run(arguments)
    assert "resuming from" in output
    assert_same_run(whole_run[0], workdir)


def test_resuming_a_finished_run_trains_no_further(whole_run, tree):
    before = final_state(whole_run[0])[1]
    results = (whole_run[0] / "results.json").read_text()
    run(command(tree, whole_run[0], "--mode=evaluate"))  # writes the best's figures over those of the last
    output = run(command(tree, whole_run[0]))
    assert "val/segmentation/miou" in output
    assert_same_tree(before, final_state(whole_run[0])[1])
    assert (whole_run[0] / "results.json").read_text() == results


def test_evaluate_mode_gives_the_figures_of_the_best_checkpoint(whole_run, tree, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(whole_run[0], workdir)
    trained = json.loads((workdir / "results.json").read_text())
    output = run(command(tree, workdir, "--mode=evaluate", "--config.batch_size=1"))
    results = json.loads((workdir / "results.json").read_text())
    assert results["epoch"] / results["step"] == trained["epoch"] / trained["step"]  # epochs are the run's
    evaluations = {line["step"]: line for line in history(workdir) if "val/depth/rmse" in line}
    eligible = {s: e for s, e in evaluations.items() if s >= 6}
    best = max(eligible, key=lambda s: (eligible[s]["val/segmentation/miou"], s))
    assert results["step"] == best
    for name, value in evaluations[best].items():
        assert results[name] == pytest.approx(value, rel=1e-6), name  # another batch size groups float32 sums anew
    assert "evaluating" in output


def test_pmap_and_shard_map_on_four_devices_make_the_run_of_one(whole_run, tree, tmp_path):
    for via in ("shard_map", "pmap"):
        workdir = tmp_path / via
        run(command(tree, workdir, f"--config.parallel={via}"), JAX_NUM_CPU_DEVICES="4")
        a, b = final_state(whole_run[0])[1], final_state(workdir)[1]
        assert_same_tree(a["batch_stats"], b["batch_stats"], exact=False)
        ends = [history(w)[-1] for w in (whole_run[0], workdir)]
        for name, value in ends[0].items():
            assert ends[1][name] == pytest.approx(value, rel=0.02, abs=1e-4), name


@pytest.mark.parametrize("via", ["shard_map", "pmap"])
def test_two_processes_make_the_run_of_one(whole_run, tree, tmp_path, via):
    import socket

    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    processes = [
        start(
            command(tree, tmp_path / "two", f"--config.parallel={via}"),
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


MISTAKES = {
    "unknown key": (["--config.model.bakcbone=x"], 2, "bakcbone"),
    "bad value": (["--config.epochs=many"], 2, "config.epochs"),
    "unknown weighting": (["--config.weighting.name=dwaa"], 1, "dwaa"),
    "unknown unit": (["--config.data.depth=feet"], 1, "feet"),
    "unknown loss": (["--config.losses.depth=l3"], 1, "l3"),
    "unknown optimizer": (["--config.optimizer.name=adm"], 1, "adm"),
    "unknown mapping": (["--config.parallel=vmap"], 1, "vmap"),
    "unknown task": (["--config.tasks=('edges',)"], 1, "edges"),
    "batch": (["--config.batch_size=0"], 1, "batch_size"),
    "metric": (["--config.best.metric=val/depth/rmsee"], 1, "rmsee"),
    "mode of best": (["--config.best.mode=maximum"], 1, "best.mode"),
    "log_every": (["--config.log_every=0"], 1, "log_every"),
    "epochs": (["--config.epochs=inf"], 1, "epochs"),
    "size": (["--config.data.size=(32,)"], 1, "data.size"),
    "option of another weighting": (["--config.weighting.name=equal"], 1, "temperature"),
    "threads": (["--config.data.num_threads=-1"], 1, "num_threads"),
    "augment": (["--config.data.augment.flip=3.0"], 1, "data.augment.flip"),
    "augment of another type": (["--config.data.augment.scales=('a',)"], 1, "data.augment"),
    "seed": (["--config.seed=100000000000000000000"], 1, "seed"),
    "learning rate": (["--config.optimizer.learning_rate=-1"], 1, "optimizer.learning_rate"),
    "dtype": (["--config.model.dtype=float"], 1, "model.dtype"),
    "a task twice": (["--config.tasks=('depth','depth')"], 1, "twice"),
    "streets": (["--config.data.streets.val=0"], 1, "data.streets.val"),
    "evaluations": (["--config.evaluate_every=0"], 1, "evaluate_every"),
    "pattern in the workdir": (["--workdir=/tmp/mtlflax[1]"], 1, "[ and ]"),
    "a file as workdir": ([f"--workdir={__file__}"], 1, "test_main.py"),
    "wrong root": (["--config.data.root=/nowhere"], 1, "/nowhere"),
    "pretrained": (["--config.model.pretrained=x"], 1, "pretrained"),
    "read-only workdir": (["--workdir=/proc/run"], 1, "/proc/run"),
    "no run to evaluate": (["--mode=evaluate"], 1, "config.json"),
    "surplus argument": (["dwa"], 2, "dwa"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_message(mistake, tree, tmp_path):
    flags, code, named = MISTAKES[mistake]
    output = run(command(tree, tmp_path / "run", *flags), code=code)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert named in output[output.index("error: ") :]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("configs/dwa.py:quik", "quik"),
        ("configs/nothing.py", "configs/nothing.py"),
        ("configs/single_task.py", ":segmentation or :depth"),
        ("configs/dwa.py:resnet50,densenet121", "one encoder"),
    ],
)
def test_a_wrong_config_argument_is_one_clear_message(config, named):
    output = run([sys.executable, "-m", "mtlflax.main", f"--config={config}"], code=2)
    assert output.startswith("error: ")
    assert named in output


def test_another_configuration_in_the_workdir_stops_and_names_the_keys(whole_run, tree):
    output = run(command(tree, whole_run[0], "--config.optimizer.learning_rate=0.02"), code=1)
    assert "optimizer.learning_rate: 0.01 there, 0.02 here" in output


def test_without_its_configuration_a_run_is_not_resumed(whole_run, tree, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(whole_run[0], workdir)
    (workdir / "config.json").unlink()
    assert "but no config.json" in run(command(tree, workdir, "--config.seed=7"), code=1)


def test_a_run_is_evaluated_on_another_number_of_devices(whole_run, tree, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(whole_run[0], workdir)
    run(command(tree, workdir, "--mode=evaluate"))
    one = json.loads((workdir / "results.json").read_text())
    run(command(tree, workdir, "--mode=evaluate"), JAX_NUM_CPU_DEVICES="3")
    three = json.loads((workdir / "results.json").read_text())
    assert one.keys() == three.keys()
    for name in (name for name in one if name.startswith("val/")):
        assert three[name] == pytest.approx(one[name], rel=1e-5), name


def test_a_broken_validation_frame_does_not_cost_the_training_before_it(tmp_path):
    root = write_tree(tmp_path / "tree")
    (path,) = sorted(root.glob("leftImg8bit/val/*/*.png"))[-1:]
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    arguments = command(root, tmp_path / "run", "--config.pictures=0", "--config.epochs=2")
    assert str(path) in run(arguments, code=1)
    path.write_bytes(whole)
    assert "resuming from" in run(arguments)


@pytest.mark.parametrize("broken", ["truncated", "missing folder", "other size"])
def test_a_broken_data_set_names_the_file(broken, tmp_path):
    root = write_tree(tmp_path / "tree")
    frame = "aachen/aachen_000003_000019"
    if broken == "truncated":
        path = root / f"leftImg8bit/train/{frame}_leftImg8bit.png"
        path.write_bytes(path.read_bytes()[:-20])
    elif broken == "missing folder":
        path = root / "disparity"
        shutil.rmtree(path)
    else:
        path = root / f"gtFine/train/{frame}_gtFine_labelIds.png"
        cv2.imwrite(str(path), np.zeros((16, 32), np.uint8))
    output = run(command(root, tmp_path / "run"), code=1)
    assert str(path) in output[output.index("error: ") :]


def test_a_validation_set_without_labels_is_said(tmp_path):
    tree = write_tree(tmp_path / "tree")
    for file in (tree / "gtFine" / "val").rglob("*_labelIds.png"):
        assert cv2.imwrite(str(file), np.zeros((32, 64), np.uint8))  # unlabelled
    output = run(command(tree, tmp_path / "run", "--config.epochs=1", "--config.best.from_epoch=0"))
    assert "val/segmentation/miou nan" in output
    assert "NOTE: no pixel of the validation set has a truth for segmentation\n" in output


def test_a_diverging_run_names_the_step_the_task_and_the_checkpoint(tree, tmp_path):
    flags = ("--config.optimizer.learning_rate=1e30", "--config.optimizer.name=sgd", "--config.log_every=1")
    output = run(command(tree, tmp_path / "run", *flags), code=1)
    message = output[output.index("error: ") :]
    assert "step " in message
    assert "loss of" in message or "gradient" in message
    assert "last good checkpoint" in message


def test_a_mistake_does_not_spoil_the_workdir(tree, tmp_path):
    """What fails before the first checkpoint leaves nothing that the corrected command would trip over."""
    run(command(tree, tmp_path / "run", "--config.optimizer.learning_rate=1e38", "--config.log_every=1"), code=1)
    run(command(tree, tmp_path / "run", "--config.epochs=1"))


def test_a_second_run_in_the_same_workdir_is_refused(tree, tmp_path):
    """And touches nothing of the first."""
    workdir = tmp_path / "run"
    first = start(command(tree, workdir, "--config.epochs=4000"))
    while first.poll() is None and not (workdir / "metrics.jsonl").exists():
        time.sleep(0.05)
    config = (workdir / "config.json").read_text()
    output = run(command(tree, workdir, "--config.epochs=4000", "--config.seed=1"), code=1)
    assert "another run is writing" in output
    assert (workdir / "config.json").read_text() == config
    assert first.poll() is None, first.communicate()[0]
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 143, output
    assert "Traceback" not in output


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_message(tree, small_disk):
    output = run(command(tree, small_disk / "run"), code=1)
    message = output[output.index("error: ") :]
    assert "No space left" in message
    assert str(small_disk) in message
    assert "Free some space" in message.splitlines()[1]


def test_ctrl_c_stops_cleanly_and_says_how_to_resume(tree, tmp_path):
    workdir = tmp_path / "run"
    arguments = command(tree, workdir, "--config.epochs=2000")
    process = start(arguments)
    while process.poll() is None and not (workdir / "results.json").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "run the same command again to resume" in output
