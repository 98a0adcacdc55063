"""Mistakes in flags, configs and data: one message names each, and the corrected command can use the workdir."""

import shutil

import cv2
import numpy as np
import pytest
from helpers.commands import call, flags, run, the_error
from helpers.trees import write_tree

from mtlflax.run import summary


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("cityscapes"))


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
    "metric": (["--config.best.metric=val/depth/rmsee"], 1, "did you mean 'val/depth/rmse'?"),
    "another metric": (
        ["--config.best.metric=val/x"],
        1,
        "val/segmentation/iou/..., val/depth/rmse",
    ),
    "a metric of which less is better": (["--config.best.metric=val/depth/rmse"], 1, "less rmse is better: give 'min'"),
    "a metric of which more is better": (["--config.best.mode=min"], 1, "more miou is better: give 'max'"),
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
    "an empty workdir": (["--workdir="], 2, "'' is not a path"),
    "the home of nobody": (["--workdir=~nobody_of_this_name/run"], 2, "there is no such user"),
    "a bucket as workdir": (["--workdir=gs://bucket/run"], 2, "gs://bucket/run is an address"),
    "a data set on the web": (["--config.data.root=https://host/data"], 1, "https://host/data: give a folder"),
    "a file as workdir": ([f"--workdir={__file__}"], 1, "test_mistakes.py"),
    "wrong root": (["--config.data.root=/nowhere"], 1, "/nowhere"),
    "pretrained": (["--config.model.pretrained=x"], 1, "pretrained"),
    "read-only workdir": (["--workdir=/proc/run"], 1, "/proc/run"),
    "no run to evaluate": (["--mode=evaluate"], 1, "config.json"),
    "surplus argument": (["dwa"], 2, "dwa"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_message(mistake, tree, tmp_path):
    mistaken, code, named = MISTAKES[mistake]
    assert named in the_error(call(flags(tree, tmp_path / "run", *mistaken), code=code))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("configs/dwa.py:quik", "did you mean 'quick'"),
        ("configs/nothing.py", "configs/nothing.py"),
        ("configs/single_task.py", ":segmentation or :depth"),
        ("configs/dwa.py:resnet50,densenet121", "one encoder"),
    ],
)
def test_a_wrong_config_argument_is_one_clear_message(config, named):
    output = call([f"--config={config}"], code=2)
    assert output.startswith("error: ")
    assert named in the_error(output)


def test_a_broken_validation_frame_does_not_cost_the_training_before_it(tmp_path):
    root = write_tree(tmp_path / "tree")
    (path,) = sorted(root.glob("leftImg8bit/val/*/*.png"))[-1:]
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    arguments = flags(root, tmp_path / "run", "--config.pictures=0", "--config.epochs=2")
    assert str(path) in run(arguments, code=1)
    path.write_bytes(whole)
    assert "resuming from" in run(arguments)


def test_an_error_in_drawing_does_not_cost_the_training_before_it(tree, tmp_path, monkeypatch):
    def panel(*_):
        raise RuntimeError("a mistake in a task of one's own")

    with monkeypatch.context() as patch:
        patch.setattr(summary, "panel", panel)
        with pytest.raises(RuntimeError, match="a mistake in a task"):
            call(flags(tree, tmp_path / "run", "--config.epochs=1"))
    assert "resuming from" in call(flags(tree, tmp_path / "run", "--config.epochs=1"))


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
    in_a_process_or_not = run if broken == "truncated" else call
    assert str(path) in the_error(in_a_process_or_not(flags(root, tmp_path / "run"), code=1))


def test_a_validation_set_without_labels_is_said(tmp_path):
    tree = write_tree(tmp_path / "tree")
    for file in (tree / "gtFine" / "val").rglob("*_labelIds.png"):
        assert cv2.imwrite(str(file), np.zeros((32, 64), np.uint8))  # unlabelled
    output = call(flags(tree, tmp_path / "run", "--config.epochs=1", "--config.best.from_epoch=0"))
    assert "val/segmentation/miou nan" in output
    assert "NOTE: no pixel of the validation set is labeled for segmentation\n" in output


def test_a_diverging_run_names_the_step_the_task_and_the_checkpoint(tree, tmp_path):
    too_fast = ("--config.optimizer.learning_rate=1e30", "--config.optimizer.name=sgd", "--config.log_every=1")
    message = the_error(call(flags(tree, tmp_path / "run", *too_fast), code=1))
    assert "step " in message
    assert "loss of" in message or "gradient" in message
    assert "There is no checkpoint yet." in message


def test_a_set_validated_on_its_training_frames_is_said(tmp_path):
    root = write_tree(tmp_path / "tree", train=4, val=4)
    said = "NOTE: the training and the validation frames have the same names"
    assert said in call(flags(root, tmp_path / "run", "--config.epochs=1"))


def test_a_flag_given_twice_counts_once(tree, tmp_path):
    sizes = ("--config.data.size=(16,32)", "--config.data.size=(32,64)", "--config.epochs=1")
    assert "read at (32, 64)" in call(flags(tree, tmp_path / "run", *sizes))


def test_a_mistake_does_not_spoil_the_workdir(tree, tmp_path):
    """What fails before the first checkpoint leaves nothing that the corrected command would trip over."""
    call(flags(tree, tmp_path / "run", "--config.optimizer.learning_rate=1e38", "--config.log_every=1"), code=1)
    call(flags(tree, tmp_path / "run", "--config.epochs=1"))
