"""The command on a trained run: what it writes gives the network's predictions, with and without this package."""

import functools
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import commands
from helpers.trees import write_tree

from mtlflax import export, main
from mtlflax.errors import UserError
from mtlflax.export import __main__ as command
from mtlflax.export import check, formats, onnx_model, stablehlo
from mtlflax.run import predictor

SIZE = (32, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run, and the run exported to both formats."""
    folder = tmp_path_factory.mktemp("export")
    tree = write_tree(folder / "tree", size=SIZE)
    more = ("--config.epochs=1", "--config.best.from_epoch=1")
    commands.call(commands.flags(tree, folder / "run", *more), main.main)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load", functools.cache(command.load))  # which takes seconds
        for name in ("network.stablehlo", "network.onnx"):
            output = run(f"--workdir={folder}/run", f"--out={folder}/{name}")
            assert "step 3, images of 32×64, tasks and channels: segmentation (19), depth (1)\n" in output
            assert "differs from the network by at most" in output
        yield folder


def run(*arguments: str, code: int = 0) -> str:
    return commands.call(arguments, command.main, code)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(folder):
    return jax.device_get(predictor.make_predict(predictor.load(folder / "run"))(images(2)))


def assert_same(actual, expected):
    assert actual.keys() == expected.keys() == {"segmentation", "depth"}
    for task, values in expected.items():
        assert actual[task].dtype == np.float32
        np.testing.assert_allclose(actual[task], values, atol=1e-5, err_msg=task)


def test_stablehlo_predicts_as_the_run(folder, expected):
    artifact = export.load(folder / "network.stablehlo")
    assert_same(artifact.predict(images(2)), expected)
    five = artifact.predict(images(5))
    assert five["segmentation"].shape == (5, *SIZE, 19)


def test_stablehlo_is_read_by_jax_alone(folder, expected, tmp_path):
    """In a process without this package, as a user's server would."""
    np.save(tmp_path / "images.npy", images(2))
    script = f"""
import sys, zipfile
import jax, numpy as np
with zipfile.ZipFile("{folder}/network.stablehlo") as archive:
    exported = jax.export.deserialize(bytearray(archive.read("model.bin")))
np.savez("{tmp_path}/maps.npz", **exported.call(np.load("{tmp_path}/images.npy")))
assert not [name for name in sys.modules if name.split(".")[0] in ("mtlflax", "flax")]
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(dict(np.load(tmp_path / "maps.npz")), expected)


def test_onnx_predicts_as_the_run(folder, expected):
    """By ONNX Runtime alone; the batch size is open."""
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", *SIZE, 3])
    shapes = {output.name: output.shape for output in session.get_outputs()}
    assert shapes == {"segmentation": ["batch", *SIZE, 19], "depth": ["batch", *SIZE, 1]}
    assert_same(dict(zip(shapes, session.run(list(shapes), {"images": images(2)}), strict=True)), expected)
    assert session.run(["depth"], {"images": images(5)})[0].shape == (5, *SIZE, 1)
    onnx.checker.check_model(onnx.load(folder / "network.onnx"), full_check=True)


def test_both_say_what_they_are(folder):
    record = json.loads((folder / "run" / "config.json").read_text())
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    in_onnx = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    said = export.load(folder / "network.stablehlo").metadata
    assert said.pop("platforms") == ["cpu", "cuda", "tpu"]
    version = said.pop("calling_convention_version")
    assert jax.export.minimum_supported_calling_convention_version <= version
    assert said == in_onnx
    assert said["size"] == [*SIZE]
    assert said["step"] == 3
    assert said["jax"] == jax.__version__
    assert said["tasks"]["depth"]["channels"] == 1
    assert "depth" in said["tasks"]["depth"]["fields"]
    assert [c["name"] for c in said["fields"]["segmentation"]["classes"]][:2] == ["road", "sidewalk"]
    assert said["fields"]["depth"]["unit"]["name"] == "normalised_disparity"
    assert all(record["fields"][name] == field for name, field in said["fields"].items())


def test_the_code_of_the_page_runs(folder, monkeypatch):
    page = (Path(export.__file__).parent / "README.md").read_text()
    monkeypatch.chdir(folder)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names := {})
        assert names.get("maps", names)["depth"].shape[1:] == (*SIZE, 1)


@pytest.mark.parametrize("name", ["stablehlo", "onnx"])
def test_a_wrong_export_is_refused(name, folder, tmp_path, monkeypatch):
    """A conversion that is off in one channel leaves the file that was there."""
    module = {"stablehlo": stablehlo, "onnx": onnx_model}[name]
    convert = module.convert

    def off(network, *rest):
        there = np.zeros((1, *SIZE, 19), np.float32)
        there[0, 3, 5, 7] = 2e-2

        def wrong(images):
            maps = network(images)
            return maps | {"segmentation": maps["segmentation"] + there}

        return convert(wrong, *rest)

    monkeypatch.setattr(module, "convert", off)
    path = tmp_path / f"network.{name}"
    path.write_text("as it was")
    output = run(f"--workdir={folder}/run", f"--out={path}", code=1)
    assert "segmentation[0, 3, 5, 7] for a smooth picture is " in commands.the_error(output)
    assert "Nothing was written" in output
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(path.name, "as it was")]


MISTAKES = {
    "suffix": (["--out=network.pt"], 1, "give a name with .stablehlo or .onnx, or --format"),
    "no suffix": (["--out=network"], 1, "--out=network"),
    "format": (["--out=network.pt", "--format=tflite"], 2, "tflite"),
    "a folder": (["--out=.", "--format=onnx"], 1, "is a folder"),
    "no run": (["--out=network.onnx", "--workdir=/nowhere"], 1, "/nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_message(mistake, folder):
    arguments, code, said = MISTAKES[mistake]
    output = run(f"--workdir={folder}/run", *arguments, code=code)
    assert said in commands.the_error(output)
    assert len(output.splitlines()) == 1


def test_a_missing_package_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "mtlflax.export.onnx_model")
    monkeypatch.delattr(export, "onnx_model")
    output = run(f"--workdir={folder}/run", f"--out={tmp_path}/network.onnx", code=1)
    assert commands.the_error(output).endswith("pip install onnx onnxruntime\n")
    assert not list(tmp_path.iterdir())


def test_the_format_may_be_given(folder, tmp_path):
    run(f"--workdir={folder}/run", f"--out={tmp_path}/a/network.bin", "--format=stablehlo")
    assert export.load(tmp_path / "a" / "network.bin").metadata["step"] == 3


def test_files_that_are_none(folder, tmp_path):
    content = (folder / "network.stablehlo").read_bytes()
    path = tmp_path / "broken.stablehlo"
    with pytest.raises(UserError, match="cannot be read"):
        export.load(path)
    for wrong in (b"", content[:-100], (folder / "network.onnx").read_bytes()):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=r"broken\.stablehlo is no \.stablehlo file of mtlflax\.export"):
            export.load(path)
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("metadata.json", '{"jax": "0.1.2"}')
        archive.writestr("model.bin", b"of another age")
    with pytest.raises(UserError, match=r"was written by jax 0\.1\.2 and cannot be read"):
        stablehlo.loads(other.getvalue())


def test_a_network_for_one_batch_size_is_refused():
    def network(images):
        return {"a": images[..., :1] * (1.0 if images.shape[0] > 2 else 2.0)}

    for convert in (stablehlo.convert, onnx_model.convert):
        with pytest.raises(UserError, match="for any batch size"):
            convert(network, SIZE, {})


def test_the_check_sees_shapes_outputs_and_nan():
    def network(images):
        return {"a": images[..., :1].astype(np.float32)}

    def with_a(function):
        return lambda images: {"a": function(network(images)["a"])}

    assert check.check(network, network, SIZE) == 0
    # Pixels reach 255: a relative difference.
    assert 0 < check.check(with_a(lambda a: a + np.float32(0.02)), network, SIZE) < 1e-4
    for wrong, said in (
        (with_a(lambda a: a + np.float32(0.03)), r"a\[0, .*for a smooth picture"),
        (with_a(lambda a: np.where(a == a.max(), np.nan, a)), "nan instead of"),
        (with_a(lambda a: a[:, :-1]), r"a for a smooth picture is exported as float32 \(1, 31, 64, 1\)"),
        (with_a(lambda a: a.astype(np.float64)), "float64"),
        (with_a(lambda a: a if len(a) == 1 else a[::-1]), "two of noise"),
        (lambda images: {}, r"has the outputs \[\], the network \['a'\]"),
    ):
        with pytest.raises(UserError, match=said):
            check.check(wrong, network, SIZE)


def test_every_format_has_a_suffix():
    assert {formats.find(Path(f"x.{name}")) for name in formats.FORMATS} == {"stablehlo", "onnx"}
