"""The launch scripts: they parse, say what they would run, run it, and stop all when one fails."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"


def launch(*arguments, **options):
    return subprocess.run(
        [str(LAUNCH / "local.sh"), *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )


SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), *Path(__file__).parents[1].rglob("*.sh")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_clean(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(script)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        (["slurm.sbatch", "--dry-run", "--config=c", "--workdir=/s/a b"], "srun .* -m mtlflax.main --config=c --work"),
        (["tpu_vm.sh", "--dry-run", "run", "n", "z", "--config=c", "--workdir=/s"], "gcloud .* n --zone=z --worker"),
        (["tpu_vm.sh", "--dry-run", "setup", "n", "z", "https://host/r"], "gcloud .* git.*clone.* https://host/r"),
        (["tpu_vm.sh", "--dry-run", "stop", "n", "z"], "gcloud .*pkill.* -TERM"),
    ],
)
def test_a_dry_run_prints_the_command_and_runs_nothing(given, printed):
    done = subprocess.run([str(LAUNCH / given[0]), *given[1:]], capture_output=True, text=True, check=True)
    assert re.search(printed, done.stdout)
    assert "srun: error" not in done.stderr


@pytest.mark.parametrize(
    "given",
    [["slurm.sbatch", "--config=c"], ["tpu_vm.sh", "run", "n", "z", "--config=c"], ["tpu_vm.sh", "walk", "n", "z"]],
    ids=" ".join,
)
def test_what_is_missing_is_said(given):
    done = subprocess.run([str(LAUNCH / given[0]), *given[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "workdir" in done.stderr


def test_the_numbers_of_the_jobset_agree():
    job = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (workers,) = job["spec"]["replicatedJobs"]
    spec = workers["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert spec["parallelism"] == spec["completions"] == int(variables["JAX_NUM_PROCESSES"])
    name = job["metadata"]["name"]
    assert variables["JAX_COORDINATOR_ADDRESS"] == f"{name}-{workers['name']}-0-0.{name}:1234"
    script = container["command"][-1]
    subprocess.run(["bash", "-n", "-c", script], check=True)
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 120


@pytest.mark.parametrize(("finished", "code"), [("true", 0), ("false", 1)])
def test_a_pod_that_was_stopped_before_the_end_counts_as_failed(finished, code, tmp_path):
    """SIGTERM to the pod's shell comes to the run, which saves and ends with 0."""
    job = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    script = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["command"][-1]
    (tmp_path / "results").write_text(json.dumps({"finished": finished == "true"}))
    (tmp_path / "python").write_text(
        f"#!/bin/sh\ntrap 'cp {tmp_path}/results {tmp_path}/results.json; exit 0' TERM\n"
        f"touch {tmp_path}/ready\nwhile :; do sleep 0.1; done\n"
    )
    (tmp_path / "python").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WORKDIR": str(tmp_path), "CONFIG": "c"}
    process = subprocess.Popen(["bash", "-c", script], env=environment)
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == code


def test_dry_run_prints_a_line_a_process():
    lines = launch("--dry-run", "3", "python", "-m", "mtlflax.main").stdout.splitlines()
    assert len(lines) == 3
    assert all(f"JAX_PROCESS_ID={i} python -m mtlflax.main" in line for i, line in enumerate(lines))


def test_it_runs_every_process_and_keeps_the_logs(tmp_path):
    done = launch(
        "2",
        "sh",
        "-c",
        "echo I am $JAX_PROCESS_ID of $JAX_NUM_PROCESSES",
        env={"LOGS": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "I am 0 of 2"
    assert (tmp_path / "process_1.log").read_text().strip() == "I am 1 of 2"


def test_when_one_fails_all_stop_and_its_code_is_returned():
    done = launch("2", "sh", "-c", "if [ $JAX_PROCESS_ID = 1 ]; then exit 7; fi; exec sleep 50")
    assert done.returncode == 7
    assert "failed with exit code 7" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("2",), ("two", "echo"), ("0", "echo")])
def test_wrong_arguments_print_the_usage(arguments):
    done = launch(*arguments)
    assert done.returncode == 2
    assert "launch/local.sh [--dry-run] N COMMAND" in done.stderr
