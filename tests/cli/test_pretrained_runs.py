"""Runs that start from pretrained weights: by a config, resumed, evaluated, exported, or stopped before they begin."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.goldens.make_encoder_goldens import state_dict
from helpers.tiny import TinyNet
from helpers.torch_shapes import torch_shapes
from helpers.trees import write_tree

from configs import dwa
from mtlflax import experiment, models, train
from mtlflax.errors import UserError
from mtlflax.models import pretrained
from mtlflax.models.pretrained import __main__ as command
from mtlflax.run import predictor


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    pretrained.write(path, state_dict(torch_shapes("resnet18")))
    return path


def small(backbone="resnet18", **changes):
    config = dwa.get_config("quick")
    config.model.backbone = backbone
    config.data.size = (32, 64)
    config.model.decoder_channels = (8, 8, 8, 8, 8)
    config.epochs = 1.0
    config.pictures = 0
    for key, value in changes.items():
        config.model[key] = value
    return config


# ---------------------------------------------------------------- what a config means


def test_auto_is_imagenet_on_cityscapes_and_scratch_on_streets(tmp_path, monkeypatch):
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    config = dwa.get_config("densenet121")
    assert config.model.pretrained == "auto"
    assert experiment.resolve(config).model.pretrained == ""
    config.data.root = str(write_tree(tmp_path, train=1, val=1))
    assert experiment.resolve(config).model.pretrained == "timm/densenet121.tv_in1k"
    assert dwa.get_config("quick").model.pretrained == ""


def test_a_path_becomes_absolute_and_a_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for given, resolved in {
        "weights/resnet18.pth": f"{tmp_path}/weights/resnet18.pth",
        "~/resnet18.npz": "/home/me/resnet18.npz",
        "timm/resnet18.a1_in1k@main": "timm/resnet18.a1_in1k@main",
        "": "",
    }.items():
        assert experiment.resolve(small(pretrained=given)).model.pretrained == resolved


def test_a_network_without_an_encoder_says_so(monkeypatch):
    class NoEncoder:
        pass

    monkeypatch.setattr(models, "get", lambda *args, **options: NoEncoder())
    with pytest.raises(UserError, match=r"model\.pretrained is '.*x\.pth', but unet has no encoder"):
        experiment.build(small(pretrained="x.pth"))


# ---------------------------------------------------------------- a run


@pytest.mark.parametrize(
    ("pretrained_from", "backbone", "said"),
    [
        ("/nowhere/resnet18.pth", "resnet18", "/nowhere/resnet18.pth: cannot be read (No such file"),
        ("timm/resnet18.tv_in1k", "resnet18", "pip install"),
        ("WEIGHTS", "resnet34", "They are for resnet18: use that backbone"),
    ],
)
def test_a_run_that_cannot_have_its_weights_stops_before_it_writes_anything(
    pretrained_from, backbone, said, weights, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    config = small(backbone, pretrained=pretrained_from.replace("WEIGHTS", str(weights)))
    with pytest.raises(UserError) as error:
        train.train_and_evaluate(config, tmp_path / "run")
    message = str(error.value)
    assert message.startswith("config: model.pretrained: ")
    assert said in message
    assert f"a {backbone}'s weights" in message
    assert "--config.model.pretrained=FILE" in message
    assert message.endswith("--config.model.pretrained=''")
    assert not (tmp_path / "run" / "config.json").exists()


class Net(TinyNet):
    """One that can be trained in seconds, with an encoder of one convolution."""

    @property
    def encoders(self):
        return ("encoder",)


def get_net(name, *, backbone, heads, axis_name, **options):
    return Net(heads, axis_name=axis_name)


def test_the_state_begins_with_the_encoder_and_nothing_else_is_changed(monkeypatch):
    monkeypatch.setattr(models, "get", get_net)
    built = experiment.build(small())
    scratch = built.init()
    state = built.init({"params": {"kernel": np.ones((3, 3, 3, 8), np.float32)}})
    assert (np.asarray(state.params["encoder"]["kernel"]) == 1).all()
    assert (np.asarray(scratch.params["encoder"]["kernel"]) != 1).all()
    with_scratch = {**state.params, "encoder": scratch.params["encoder"]}
    jax.tree.map(np.testing.assert_array_equal, state.replace(params=with_scratch), scratch)


def test_a_run_starts_from_its_weights_and_never_asks_for_them_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "get", get_net)
    given = {"params": {"kernel": np.full((3, 3, 3, 8), 0.1, np.float32)}}
    asked = []

    def load(source, backbone):
        asked.append((source, backbone))
        return given, "a file (SHA-256 0)"

    monkeypatch.setattr(pretrained, "load", load)
    config = small(pretrained="auto")
    config.data.name, config.data.root = "cityscapes", str(write_tree(tmp_path / "tree", train=8, val=4))
    config.optimizer.learning_rate = 1e-20  # moves nothing
    workdir = tmp_path / "run"
    results = train.train_and_evaluate(config, workdir)
    assert asked == [("timm/resnet18.tv_in1k", "resnet18")]
    known = json.loads((workdir / "config.json").read_text())
    assert known["encoder"] == "from a file (SHA-256 0)"
    assert known["config"]["model"]["pretrained"] == "timm/resnet18.tv_in1k"
    assert "encoder: resnet18, from a file (SHA-256 0)" in capsys.readouterr().out
    run = predictor.load(workdir)
    np.testing.assert_array_equal(run.variables["params"]["encoder"]["kernel"], given["params"]["kernel"])

    assert train.train_and_evaluate(config, workdir) == results
    assert train.evaluate_checkpoint(config, workdir) == results
    assert len(asked) == 1
    config.model.pretrained = ""
    with pytest.raises(UserError, match=r"model\.pretrained: 'timm/resnet18\.tv_in1k' there, '' here"):
        train.evaluate_checkpoint(config, workdir)


@pytest.mark.slow
def test_a_real_run_from_a_file_to_an_export(weights, tmp_path):
    config = small(pretrained=str(weights))
    config.data.name, config.data.root = "cityscapes", str(write_tree(tmp_path / "tree", train=8, val=4))
    config.optimizer.learning_rate = 1e-20  # moves nothing but the running statistics
    train.train_and_evaluate(config, tmp_path / "run")
    assert_only_statistics_moved(tmp_path / "run", weights)


@pytest.mark.slow
def test_two_processes_start_from_a_file(weights, tmp_path):
    tree = write_tree(tmp_path / "tree", train=8, val=4)
    flags = {
        "data.root": tree,
        "data.name": "cityscapes",
        "data.size": "(32,64)",
        "model.pretrained": weights,
        "model.decoder_channels": "(8,8,8,8,8)",
        "epochs": 1,
        "optimizer.learning_rate": 1e-20,
    }
    done = subprocess.run(
        [
            *("launch/local.sh", "2", sys.executable, "-m", "mtlflax.main", "--config=configs/dwa.py:quick"),
            *(f"--config.{key}={value}" for key, value in flags.items()),
            f"--workdir={tmp_path / 'run'}",
        ],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "LOGS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "process_1.log").read_text()
    assert "2 × cpu" in done.stdout
    assert f"encoder: resnet18, from {weights} (SHA-256" in done.stdout
    assert_only_statistics_moved(tmp_path / "run", weights)


def assert_only_statistics_moved(workdir, weights):
    """Compares the encoder that a run ended with, exported, with the file that it began from."""
    out = workdir.parent / "trained.safetensors"
    command.main(["--export", str(workdir), "--out", str(out)])
    given, exported = pretrained.read(weights).tensors, pretrained.read(out).tensors
    assert exported.keys() == given.keys()
    for name, value in given.items():
        assert np.array_equal(exported[name], value) != name.endswith(("running_mean", "running_var")), name


# ---------------------------------------------------------------- the command


def test_check_says_what_a_file_is(tmp_path, capsys):
    tensors = state_dict(torch_shapes("resnet50"))
    tensors |= {"fc.weight": np.zeros((1000, 2048)), "fc.bias": np.zeros(1000)}
    path = tmp_path / "some.npz"
    pretrained.write(path, tensors)
    command.main(["--check", str(path)])
    said = capsys.readouterr().out
    for part in (
        f"{path}: NumPy (npz), SHA-256 {pretrained.read(path).sha256}",
        "267 tensors (float32), 25,557,032 parameters",
        "names: torchvision or timm\n",
        "classifier: of 1000 classes",
        "fits: resnet50",
    ):
        assert part in said


def test_check_says_what_a_file_lacks(tmp_path):
    tensors = state_dict(torch_shapes("densenet121"))
    del tensors["features.norm5.bias"]
    path = tmp_path / "some.npz"
    pretrained.write(path, tensors)
    said = r"(?s)603 tensors.*classifier: none.*fits none of .* For densenet121, the nearest: 1 missing"
    with pytest.raises(UserError, match=said):
        command.main(["--check", str(path)])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_encoder_is_exported_to_the_last_bit(suffix, weights, tmp_path, monkeypatch, capsys):
    tensors = pretrained.read(weights).tensors
    other = {name: value + 1 for name, value in tensors.items()}
    a, b = (pretrained.convert("resnet18", t) for t in (tensors, other))
    variables = {kind: {"encoder_a": a[kind], "encoder_b": b[kind]} for kind in a}
    model = types.SimpleNamespace(encoders=("encoder_a", "encoder_b"))
    network = types.SimpleNamespace(model=model, config=small())
    monkeypatch.setattr(predictor, "load", lambda workdir: predictor.Run(network, 7, variables))
    out = tmp_path / f"out{suffix}"
    command.main(["--export", "runs/x", "--out", str(out), "--encoder", "encoder_a"])
    assert f"{out}: resnet18, step 7, 100 tensors" in capsys.readouterr().out
    read = pretrained.read(out).tensors
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(read[name], value)
    for wrong in ([], ["--encoder", "encoder"]):
        with pytest.raises(UserError, match="these encoders: encoder_a, encoder_b; name one with --encoder"):
            command.main(["--export", "runs/x", "--out", str(out), *wrong])


@pytest.mark.parametrize(
    "arguments", [[], ["--check", "a", "--export", "b"], ["--export", "b"], ["--check", "a", "--out", "b"]]
)
def test_the_command_wants_one_thing_to_do(arguments, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert "--export" in capsys.readouterr().err
