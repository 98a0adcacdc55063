"""launch/slurm.sbatch on a Slurm of this machine alone, if it has one: two tasks, told to stop, requeued, finished."""

import os
import shutil
import subprocess
import sys
import time

import pytest
from helpers.commands import REPOSITORY, flags, results
from helpers.trees import write_tree

HERE = REPOSITORY / "tests/cli"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("slurmctld") and shutil.which("munged")), reason="needs slurm-wlm and munge"),
]


@pytest.fixture
def slurm(tmp_path):
    """The environment in which its commands find the cluster."""
    folder = tmp_path / "slurm"
    started = subprocess.run(
        [HERE / "slurm_cluster.sh", "start", folder], check=False, capture_output=True, text=True, timeout=120
    )
    if started.returncode:
        subprocess.run([HERE / "slurm_cluster.sh", "stop", folder], check=False)
        pytest.skip(f"Slurm does not start here: {started.stderr[-300:]}")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "CITYSCAPES"))}
    yield kept | {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([HERE / "slurm_cluster.sh", "stop", folder], check=True)


def test_a_job_is_stopped_requeued_and_finished(slurm, tmp_path):
    tree, workdir, output = write_tree(tmp_path / "tree"), tmp_path / "run", tmp_path / "job.out"
    environment = slurm | {"MTLFLAX_PYTHON": sys.executable, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    environment["PYTHONPATH"] = f"{REPOSITORY}:{REPOSITORY}/tests"

    def ask(*command):
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, cwd=REPOSITORY)
        return done.stdout.strip() or done.stderr

    def wait_until(there, seconds=240):
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, output.read_text() if output.exists() else ask("squeue")
            time.sleep(0.3)

    shape = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", "--time=10"]
    given = [*shape, f"--output={output}", "launch/slurm.sbatch", *flags(tree, workdir, "--config.epochs=100")]
    job = ask("sbatch", "--parsable", *given)
    assert job.isdecimal(), job
    wait_until(lambda: (workdir / "results.json").exists())
    ask("scancel", "--signal=TERM", job)
    wait_until(lambda: "back to the queue" in output.read_text())
    said = output.read_text()
    assert "2 processes, by Slurm; process 0 is at" in said
    assert "stopped by" in said
    assert results(workdir)["finished"] is False
    # Slurm lets a job that was requeued wait for two minutes; it may be told that it need not.
    wait_until(lambda: ask("squeue", "--noheader", f"--jobs={job}", "--format=%T") == "PENDING")
    ask("scontrol", "update", f"job={job}", "StartTime=now")
    wait_until(lambda: "the run is finished" in output.read_text())
    assert output.read_text().count("resuming from") == 1
    assert results(workdir)["finished"] is True
