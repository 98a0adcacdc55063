"""`gpu.sh`, with stand-ins for the GPU and for Python: what it runs, and what it does about a failure."""

import os
import subprocess

import pytest
from helpers.commands import REPOSITORY

SCRIPT = REPOSITORY / "tests" / "benchmarks" / "gpu.sh"
# It fails for lack of memory at one shape.
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in *512*compile*) exit 1 ;; esac
echo measured
"""


def run(folder, *arguments):
    for name, text in (("nvidia-smi", "#!/usr/bin/env bash\necho a GPU\n"), ("python", PYTHON)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls")}
    return subprocess.run([SCRIPT, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.quick
def test_a_failure_is_named_and_the_rest_goes_on(tmp_path):
    done = run(tmp_path, "out")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("failed: ")] == [
        f"failed: peer_torch.py --backbone={name} --batch=8 --size=512x1024 --precision=bfloat16 --compile"
        for name in ("resnet50", "densenet121")
    ]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert (tmp_path / "out" / "gpu.txt").read_text() == "a GPU\n"
    assert (tmp_path / "out" / "ratios.txt").read_text().count("measured") == 14
    assert f"--weightings=all --steps=20 --out={tmp_path}/out/methods.json" in calls[-1]


@pytest.mark.quick
def test_the_short_form_compares_one_encoder(tmp_path):
    run(tmp_path, "out", "--short")
    assert (tmp_path / "calls").read_text().count("--backbone=resnet50") == 6
    assert len((tmp_path / "calls").read_text().splitlines()) == 6
    done = run(tmp_path, "out", "--shrot")
    assert done.returncode == 2
    assert "gpu.sh OUT [--short]" in done.stderr
