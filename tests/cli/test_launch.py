"""The launch scripts: they parse, say what they would run, run it, and stop all when one fails."""

import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"


def launch(*arguments, **options):
    return subprocess.run(
        [str(LAUNCH / "local.sh"), *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_parses(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


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
