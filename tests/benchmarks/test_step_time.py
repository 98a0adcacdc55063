"""The benchmark of a step: what it times is a step that trains, and what it writes is whole."""

import json
import re

import jax
import numpy as np
import pytest
from helpers.batches import FIELDS
from helpers.commands import call, run
from jax.experimental.compilation_cache import compilation_cache

from configs import dwa
from mtlflax import experiment, tasks
from mtlflax.benchmark import __main__ as benchmark
from mtlflax.benchmark import step
from mtlflax.training import parallel


def test_everything_is_known_in_a_made_up_batch():
    batch = step.made_up(FIELDS, (8, 16), 3)
    for name, field in FIELDS.items():
        assert batch[name].shape == (3, *field.shape((8, 16)))
        assert batch[name].dtype == field.dtype
    for task in (tasks.segmentation(FIELDS), tasks.depth(FIELDS)):
        assert np.all(task.valid(batch))


def test_a_step_is_timed(monkeypatch):
    config = dwa.get_config("quick")
    config.model.name, config.data.size = "helpers.tiny:tiny", (32, 64)
    built = experiment.build(config)
    found = step.measure(built, parallel.make_mesh(4), steps=3)
    assert 0 < found.median <= found.p90 < found.cached_seconds
    assert np.isnan(found.compile_seconds)  # the tests keep programs in a folder, which may have had these
    assert found.images_per_second == config.batch_size / found.median


def test_the_second_start_reads_the_programs_of_the_first():
    config = dwa.get_config("quick")
    config.model.name, config.data.size = "helpers.tiny:tiny", (32, 64)
    built = experiment.build(config)
    kept, events = jax.config.jax_compilation_cache_dir, []
    listener = lambda event, **_: events.append(event.rsplit("/", 1)[-1])  # noqa: E731
    jax.config.update("jax_compilation_cache_dir", None)
    jax.monitoring.register_event_listener(listener)
    try:
        measured = step.measure(built, parallel.make_mesh(4), steps=1)
        assert measured.compile_seconds > 0
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.monitoring.unregister_event_listener(listener)
        jax.config.update("jax_compilation_cache_dir", kept)
        compilation_cache.reset_cache()
    found = [event for event in events if event in ("cache_hits", "cache_misses")]
    misses = found.count("cache_misses")
    assert found == ["cache_misses"] * misses + ["cache_hits"] * (len(found) - misses)
    assert len(found) - misses >= 2  # the state's and the step's


def test_the_command_keeps_its_figures(tmp_path):
    said = call(
        [
            "--config=configs/dwa.py:quick",
            "--config.model.name=helpers.tiny:tiny",
            "--config.data.size=(32,64)",
            "--steps=2",
            f"--out={tmp_path / 'step.json'}",
        ],
        benchmark.main,
    )
    assert "s per step (p90" in said
    content = json.loads((tmp_path / "step.json").read_text())
    assert (content["total_steps"], content["timed_steps"]) == (400, 2)
    assert content["median"] > 0
    assert content["versions"]["jax"]
    assert "--steps=0: must be at least 1" in call(["--config=configs/dwa.py", "--steps=0"], benchmark.main, code=2)


def test_input_is_timed(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    small = ["--config.data.size=(32,64)", "--config.data.streets.train=12", "--config.data.streets.val=2"]
    for more in ([], ["--config.data.cache=auto"]):
        said = call(
            [
                "--what=input",
                "--config=configs/dwa.py:quick",
                "--seconds=0.2",
                f"--out={tmp_path / 'input.json'}",
                *small,
                *more,
            ],
            benchmark.main,
        )
        assert "images/s on average, at 32×64; a batch of 4 took" in said
        content = json.loads((tmp_path / "input.json").read_text())
        assert content["what"] == "input"
        assert content["images_per_second"] > 0
        assert content["batch_megabytes"] == 4 * (32 * 64 * (3 + 1 + 4) + 4) / 1e6


def test_a_compiled_step_for_devices_that_are_not_there(tmp_path):
    """In a process of its own: the number of devices is fixed once."""
    small = ["--config.data.size=(32,64)", "--config.model.name=helpers.tiny:tiny", "--config.batch_size=32"]
    given = ["--what=compile", "--devices=16", "--config=configs/dwa.py:quick", f"--out={tmp_path / 'c.json'}"]
    said = run([*given, *small], "mtlflax.benchmark")
    assert "16 devices, simulated: lowered in" in said
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["devices"] == 16
    assert set(content["collectives"]) == {"all-reduce"}
    assert content["collective_bytes"]["all-reduce"] > 4 * 1692
    assert content["argument_bytes"] > 3 * 4 * 1692


def test_everything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLFLAX_CACHE", str(tmp_path / "cache"))
    small = ["--config.data.size=(32,64)", "--config.data.streets.train=8", "--config.data.streets.val=2"]
    small += ["--config.model.name=helpers.tiny:tiny", "--steps=2", "--seconds=0.1"]
    given = ["--what=all", "--config=configs/dwa.py:quick", f"--out={tmp_path / 'all.json'}", *small]
    said = call([*given, f"--profile={tmp_path / 'trace'}"], benchmark.main)
    for name in ("step", "input", "together", "predict"):
        assert f"\n{name}: " in said
    content = json.loads((tmp_path / "all.json").read_text())
    assert 0 <= content["together"]["waiting_for_input"] <= 1
    assert content["predict"]["parameters"] == 1692
    assert content["step"]["flops"] > content["predict"]["multiply_adds"]
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_methods_are_compared_with_equal_weights():
    small = ["--config=configs/dwa.py:quick", "--config.model.name=helpers.tiny:split", "--config.data.size=(32,64)"]
    said = call([*small, "--weightings=random,mean,pcgrad,pcgrad@representation", "--steps=2"], benchmark.main)
    found = dict(re.findall(r"^([\w@]+) +[\d.]+ × equal weights .*, ([\d.]+) × the operations$", said, re.MULTILINE))
    assert found.keys() == {"random", "mean", "pcgrad", "pcgrad@representation"}
    assert float(found["random"]) == pytest.approx(1, abs=0.02)
    assert float(found["mean"]) > 1.02
    assert float(found["pcgrad"]) > float(found["pcgrad@representation"])  # which takes one backward pass of the trunk


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cagard", "there is no 'cagard' (did you mean 'cagrad'?)"),
        ("dwa,cagrad@features", "cagrad: level is 'features': choose from parameters, representation"),
        ("dwa@representation", "weighting 'dwa' has no option 'level'"),
    ],
)
def test_weightings_that_do_not_exist_are_named(names, message):
    assert message in call(["--config=configs/dwa.py:quick", f"--weightings={names}"], benchmark.main, code=1)


def test_each_run_of_a_sweep_is_measured(tmp_path):
    """Here, two networks, of which a table is made."""
    (tmp_path / "two.py").write_text("""
def sweep(add):
    for stride in (2, 4):
        add(f"stride{stride}", "configs/dwa.py:quick", {"model.name": "unet", "model.head_stride": stride})
""")
    small = ["--config.data.size=(32,64)", "--config.batch_size=2", "--config.model.decoder_channels=(8,8,8,8,8)"]
    given = [f"--sweep={tmp_path / 'two.py'}", "--what=predict", "--steps=1", f"--out={tmp_path / 'two.json'}"]
    said = call([*given, *small], benchmark.main)
    rows = re.findall(r"^\| (\w+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", said, re.MULTILINE)
    assert rows == ["stride2", "stride4"]
    content = json.loads((tmp_path / "two.json").read_text())
    assert content["runs"]["stride2"]["multiply_adds"] > content["runs"]["stride4"]["multiply_adds"]
    assert content["runs"]["stride4"]["milliseconds"] > 0
    assert content["versions"]["jax"]
    assert "not allowed with" in call([*given, "--config=configs/dwa.py"], benchmark.main, code=2)


def test_what_cannot_be_written_is_said_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    given = ["--config=configs/dwa.py:quick", "--config.model.name=helpers.tiny:tiny", "--steps=1"]
    for flag in (f"--out={tmp_path}", f"--out={tmp_path / 'file' / 'a.json'}", f"--profile={tmp_path / 'file'}"):
        said = call([*given, flag], benchmark.main, code=1)
        assert "cannot write " in said
        assert "step: " not in said


def test_a_run_of_a_sweep_that_cannot_be_built_is_named(tmp_path):
    (tmp_path / "typo.py").write_text("""
def sweep(add):
    add("first", "configs/dwa.py:quick", {"model.name": "helpers.tiny:tiny"})
    add("second", "configs/dwa.py:quick", {"model.nam": "unet"})
""")
    given = [f"--sweep={tmp_path / 'typo.py'}", "--what=predict", "--steps=1"]
    assert "typo.py: run 'second': the config has no key 'nam'" in call(given, benchmark.main, code=1)


def test_what_pmap_does_not_tell_is_null(tmp_path):
    """`pmap` shows no program, so its operations are not known."""
    small = ["--config=configs/dwa.py:quick", "--config.model.name=helpers.tiny:tiny", "--config.data.size=(32,64)"]
    given = [*small, "--config.parallel=pmap", "--steps=1", f"--out={tmp_path / 'a.json'}"]
    said = call([*given, "--weightings=random,"], benchmark.main)
    assert "nan" not in said
    (row,) = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)["weightings"]
    assert (row["method"], row["operations_ratio"]) == ("random", None)
