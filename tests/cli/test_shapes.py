"""Processes × devices: any shape trains the same network, and one resumes what another has saved."""

import shutil

import jax
import numpy as np
import pytest
from helpers import hosts
from helpers.commands import final_state, flags, history
from helpers.trees import write_tree

STEPS = ["--config.epochs=1", "--config.log_every=1", "--config.batch_size=8", "--config.evaluate_every=1"]
STEPS += [
    "--config.data.name=cityscapes",
    "--config.model.name=helpers.tiny:split",
    "--config.optimizer.name=sgd",
    "--config.best.from_epoch=0",
]
METHODS = {
    "equal": ["--config=configs/weighting.py:equal,quick"],
    "dwa": ["--config=configs/weighting.py:dwa,quick"],
    "gradnorm": ["--config=configs/weighting.py:gradnorm,quick"],
    "cagrad": ["--config=configs/weighting.py:cagrad,quick"],
}
SHAPES = [(1, 4), (1, 8), (2, 2), (4, 1)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Ten steps of eight frames."""
    return write_tree(tmp_path_factory.mktemp("cityscapes"), train=80, val=4)


def arguments(method, tree, workdir, *more):
    given = [each for each in flags(tree, workdir) if "configs/dwa.py" not in each and "pretrained" not in each]
    return [*METHODS[method], *given, *STEPS, *more]


def assert_close(one, other, path):
    """The parameters, statistics, momentum and the weighting's state: as near as float32 sums in another order."""
    a, b = (jax.tree_util.tree_leaves_with_path(each) for each in (one, other))
    assert [p for p, _ in a] == [p for p, _ in b]
    for (name, x), (_, y) in zip(a, b, strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-6, err_msg=f"{path} {jax.tree_util.keystr(name)}")


@pytest.mark.parametrize(
    "method", ["equal", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dwa", "gradnorm", "cagrad"))]
)
@pytest.mark.parametrize("via", ["shard_map", pytest.param("pmap", marks=pytest.mark.slow)])
def test_any_shape_trains_the_same_network(method, via, tree, tmp_path):
    """Over ten steps."""
    hosts.run(arguments(method, tree, tmp_path / "one"), tmp_path / "logs")
    steps, one = final_state(tmp_path / "one")
    assert steps[-1] == 10
    for processes, devices in SHAPES:
        workdir = tmp_path / f"{processes}x{devices}"
        given = arguments(method, tree, workdir, f"--config.parallel={via}")
        hosts.run(given, tmp_path / f"logs{processes}x{devices}", processes=processes, devices=devices)
        assert_close(one, final_state(workdir)[1], workdir.name)


def test_what_one_shape_has_saved_another_resumes(tree, tmp_path):
    """Saved by 2 × 2 after four of ten steps; the losses go on as if nothing had happened."""
    more = ["--config.checkpoint.every=0.4", "--config.checkpoint.keep=5"]
    whole = tmp_path / "whole"
    hosts.run(arguments("dwa", tree, whole, *more), tmp_path / "logs", processes=2, devices=2)
    steps, final = final_state(whole)
    assert steps == [4, 8, 10]
    for processes, devices, via in ((1, 1, "shard_map"), (1, 8, "pmap"), (4, 1, "shard_map")):
        workdir = tmp_path / f"{processes}x{devices}"
        shutil.copytree(whole, workdir)
        for step in (8, 10):
            shutil.rmtree(workdir / "checkpoints" / str(step))
        given = arguments("dwa", tree, workdir, *more, f"--config.parallel={via}", "--config.log_every=2")
        said = hosts.run(given, tmp_path / f"logs{workdir.name}", processes=processes, devices=devices)
        assert f"resuming from {workdir}/checkpoints/4" in said
        assert_close(final, final_state(workdir)[1], workdir.name)
        ours, theirs = ({line["step"]: line for line in history(each)} for each in (workdir, whole))
        assert ours.keys() <= theirs.keys()
        for name, value in ours[10].items():
            assert theirs[10][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
