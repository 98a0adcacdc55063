"""docs/extending.md: what it builds in a file of one's own is trained, resumed, evaluated and predicted with."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.trees import write_tree

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
COMMANDS = re.findall(r"^    python -m mtlflax\.main (.*)$", PAGE, re.MULTILINE)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that is not the repository, with the page's code in one module, the configs, and a data set."""
    folder = tmp_path_factory.mktemp("own")
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (folder / "my_parts.py").write_text("\n".join(code))
    write_tree(folder / "tree", train=4, val=2)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "my_parts.py").write_text("raise RuntimeError('another module of that name')\n")
    return folder


def run(module, *arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-m", f"mtlflax.{module}", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=["gradients", "losses", "encoder", "network"])
def test_each_part_is_trained_resumed_and_predicted_with(folder, command):
    workdir = folder / f"run{COMMANDS.index(command)}"
    tiny = [f"--workdir={workdir}", "--config.data.name=cityscapes", f"--config.data.root={folder / 'tree'}"]
    tiny += ["--config.data.size=(32,64)", "--config.batch_size=2", "--config.pictures=1", "--config.log_every=1"]
    tiny += ["--config.epochs=1.0", "--config.evaluate_every=1.0"]
    if "SmallEncoder" in command:
        tiny += ["--config.model.decoder_channels=(8,8,8,8,8)"]
    command = re.sub(r"(agreement|inverse_mean),quick", r"\1,my_parts:OneDecoder,quick", command)  # which compiles fast
    done = run("main", *command.split(), *tiny, cwd=folder)
    assert done.returncode == 0, done.stderr
    results = json.loads((workdir / "results.json").read_text())
    assert results["step"] == 2
    record = json.loads((workdir / "config.json").read_text())
    assert record["modules"] == {"my_parts": str(folder.resolve())}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    if "agreement" in command:
        assert lines[0]["train/weight/depth"] == pytest.approx(1.0)  # two tasks agree with each other alike

    if "inverse_mean" in command:  # found again as the other method is
        return

    # In another folder, which has another module of that name.
    again = run("main", *command.split(), *tiny, cwd=folder / "elsewhere")
    assert again.returncode == 0, again.stderr
    assert "resuming from" in again.stdout
    assert f"NOTE: my_parts is imported from {folder.resolve()}, where the run has it from, not from" in again.stderr
    if "OneDecoder" in command:
        evaluated = run("main", f"--workdir={workdir}", "--mode=evaluate", cwd=folder / "elsewhere")
        assert evaluated.returncode == 0, evaluated.stderr
        assert json.loads((workdir / "results.json").read_text()) == results

    images = str(folder / "tree" / "leftImg8bit" / "val" / "aachen")
    done = run("predict", f"--workdir={workdir}", f"--images={images}", "--out=maps", cwd=folder / "elsewhere")
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "elsewhere" / "maps").glob("*_depth.png"))) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("--config.weighting.name=my_parts:agrement", "my_parts has no 'agrement'"),
        ("--config.model.backbone=my_part:SmallEncoder", "cannot import my_part"),
        ("--config.weighting.name=math:tau", "spec.gradient_balancing"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(folder, name, message):
    done = run("main", "--config=configs/weighting.py:mean,quick", f"--workdir={folder / 'none'}", name, cwd=folder)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
