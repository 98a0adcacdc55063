"""Train all runs of a sweep, and make their table.

    python launch/sweep.py configs/table1.py --out=DIR
    python launch/sweep.py configs/table1.py:quick --out=DIR --jobs=2
    python launch/sweep.py configs/table1.py --out=DIR --slurm > sweep.sbatch && sbatch sweep.sbatch
    python -m mtlflax.report DIR --out=DIR/report    # when the jobs are done

A sweep is a config file with a function `sweep(add)`; each run lies in DIR/<its name>, with its output in output.txt.
Run the same command again to resume: finished runs are skipped, stopped ones are resumed. A run that fails does not
stop the rest; it is named at the end. The table is made when all are done, by `python -m mtlflax.report`.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.sweep_cost import environment, say_cost
from mtlflax import command_line
from mtlflax.files import plain_errors, write_text
from mtlflax.run import compiled, config_file, evaluations, workdir
from mtlflax.run.config_file import Entry
from mtlflax.run.progress import format_seconds

STARTED = "--- started"  # before the output of each start
SLURM = """#!/bin/bash
#SBATCH --job-name="{name}"
#SBATCH --array=0-{last}{at_a_time}
#SBATCH --output="{out}/slurm-%a.txt"
# Add what your cluster needs: --partition, --gres=gpu:1, --time, --cpus-per-task.
cd {folder} || exit 1
exec {python} {script} {config} --out={quoted} --only="$SLURM_ARRAY_TASK_ID"
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit code: 1 if a run failed."""
    parser = argparse.ArgumentParser("python launch/sweep.py", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", metavar="FILE[:ARGUMENTS]", help="a config file with a sweep")
    parser.add_argument("--out", type=command_line.path, required=True, metavar="DIR", help="where the runs are kept")
    parser.add_argument("--jobs", type=int, metavar="N", help="so many runs at a time (default: 1; with --slurm: all)")
    parser.add_argument("--only", type=int, metavar="I", help="train the I-th run alone, counted from 0, and no table")
    parser.add_argument("--no-cost", action="store_true", help="do not measure first what the sweep will cost")
    parser.add_argument("--list", action="store_true", help="print the runs and their state, and train none")
    parser.add_argument("--slurm", action="store_true", help="print a Slurm array job, --jobs tasks at a time")
    options = parser.parse_args(argv)
    entries = config_file.load_sweep(options.config)
    out = options.out.absolute()
    jobs = 1 if options.jobs is None else options.jobs
    if jobs < 1:
        parser.error(f"--jobs={options.jobs}: must be at least 1")
    if options.only is not None and not 0 <= options.only < len(entries):
        parser.error(f"--only={options.only}: there are {len(entries)} runs, counted from 0")
    if options.list:
        others = _others(entries, out)
        for i, entry in enumerate(entries):
            what = "another" if entry in others else state(out / entry.name)
            print(f"{i:3} {what:9} {entry.name}: {' '.join([entry.config, *entry.overrides])}")
        if others:
            print("another: the folder holds a run of another config; give another --out")
        return 0
    if options.slurm:
        with plain_errors(out):
            out.mkdir(parents=True, exist_ok=True)  # Slurm does not make the folder of a job's output
        paths = {"python": sys.executable, "script": Path(__file__).resolve(), "folder": Path.cwd(), "quoted": out}
        quoted = {key: shlex.quote(str(value)) for key, value in (paths | {"config": options.config}).items()}
        at_a_time = f"%{jobs}" if options.jobs else ""
        print(SLURM.format(name=out.name, last=len(entries) - 1, at_a_time=at_a_time, out=out, **quoted))
        return 0
    compiled.drop_damaged(out / "compiled")  # a program that `kill -9` cut off would be compiled for each run
    if options.only is not None:
        return 1 if train([entries[options.only]], out, 1) else 0
    signal.signal(signal.SIGTERM, stop)
    if not options.no_cost:
        say_cost([entry for entry in entries if state(out / entry.name) in ("new", "stopped")], out, jobs)
    failed = train(entries, out, jobs)
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}\n       its output: {out / name / 'output.txt'}")
    if len(failed) < len(entries):
        from mtlflax.report import __main__ as report  # here: it imports jax

        report.main([str(out), f"--out={out / 'report'}"])
    return 1 if failed else 0


def stop(number: int, frame: object) -> None:
    """Stop as Ctrl-C does, with the exit code of the signal: what is under way is saved."""
    del frame
    raise SystemExit(128 + number)


def state(folder: Path) -> str:
    """Return whether a run is finished, running, stopped or new."""
    if evaluations.finished(folder):
        return "finished"
    if workdir.is_locked(folder):
        return "running"
    return "stopped" if (folder / "config.json").exists() else "new"


def train(entries: Sequence[Entry], out: Path, jobs: int) -> dict[str, str]:
    """Train the runs that are not finished, `jobs` at a time; return the name and the reason of those that failed."""
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    failed = {
        entry.name: "its folder holds a run of another config: give another --out" for entry in _others(entries, out)
    }
    waiting = [entry for entry in entries if state(out / entry.name) != "finished" and entry.name not in failed]
    done = len(entries) - len(waiting) - len(failed)
    print(f"{len(entries)} runs in {out}: {done} finished before, {len(waiting)} to train", flush=True)
    orphans: set[str] = set()
    named = {entry.name: entry for entry in entries}
    began, told, trained = time.monotonic(), time.monotonic(), 0
    try:
        while waiting or running:
            # One that an earlier sweep has started, which was killed, goes on by itself: its turn comes when it ends.
            free = [entry for entry in waiting if not workdir.is_locked(out / entry.name)]
            for entry in waiting:
                if entry not in free and entry.name not in orphans:
                    orphans.add(entry.name)
                    print(f"{entry.name}: another process is training it; waiting for it to end", flush=True)
            while free and len(running) < jobs:
                entry = free.pop(0)
                waiting.remove(entry)
                if state(out / entry.name) == "finished":  # by another process, meanwhile
                    done += 1
                    continue
                running[entry.name] = (start(entry, out), time.monotonic())
                print(f"[{done + len(running) + len(failed)}/{len(entries)}] {entry.name}: started", flush=True)
            time.sleep(0.2)
            for name, (process, since) in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                del running[name]
                if code and "another run is writing" in last_line(out / name / "output.txt"):
                    waiting.append(named[name])  # an orphan that had not yet locked its folder was faster
                    continue
                if code or not evaluations.finished(out / name):  # one that was stopped ends with code 0
                    failed[name] = last_line(out / name / "output.txt") or f"exit code {code}"
                    print(f"[{done + len(failed)}/{len(entries)}] {name}: FAILED: {failed[name]}", flush=True)
                    continue
                done, trained = done + 1, trained + 1
                left = (time.monotonic() - began) / trained * (len(waiting) + len(running))
                took = format_seconds(time.monotonic() - since)
                print(
                    f"[{done + len(failed)}/{len(entries)}] {name}: {headline(out / name)}, took {took}; sweep: "
                    f"{len(waiting) + len(running)} to go, about {format_seconds(left)}",
                    flush=True,
                )
            if time.monotonic() - told > 60:
                told = time.monotonic()
                print("".join(f"    {name}: {position(out / name)}\n" for name in running), end="", flush=True)
    except BaseException as error:  # Ctrl-C among them: what they have trained is kept
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
        if isinstance(error, KeyboardInterrupt | SystemExit):
            print("stopped; run the same command again to resume", file=sys.stderr)
        raise
    return failed


def _others(entries: Sequence[Entry], out: Path) -> list[Entry]:
    """The runs in whose folders an earlier sweep has trained something else."""
    return [entry for entry in entries if read_text(out / entry.name / "sweep.json") not in ("", _description(entry))]


def _description(entry: Entry) -> str:
    return json.dumps([entry.config, entry.overrides, config_file.load(entry.config, entry.overrides).to_json()]) + "\n"


def start(entry: Entry, out: Path) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own; UserError if its folder cannot be written."""
    folder = out / entry.name
    command = [
        sys.executable,
        "-m",
        "mtlflax.main",
        f"--config={entry.config}",
        f"--workdir={folder}",
        *entry.overrides,
    ]
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "sweep.json", _description(entry))
        with open(folder / "output.txt", "ab") as output:
            output.write(f"{STARTED} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            output.flush()
            return subprocess.Popen(command, env=environment(out), stdout=output, stderr=subprocess.STDOUT)


def last_line(path: Path) -> str:
    """Return the error in the output of a run's last start, or its last line."""
    text = read_text(path).rpartition(STARTED)[2]
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def read_text(path: Path) -> str:
    """Return what is in a file; '' if there is none."""
    return path.read_text(errors="replace") if path.exists() else ""


def headline(folder: Path) -> str:
    """Return the first figures of a finished run."""
    results = json.loads((folder / evaluations.LAST).read_text())
    names = ("miou", "rmse")
    shown = [f"{k} {v:.4f}" for k, v in results.items() if k.startswith("val/") and k.rpartition("/")[2] in names]
    return "  ".join(shown) or "finished"


def position(folder: Path) -> str:
    """Return how far a run is, from the last line of its metrics."""
    try:
        line: dict[str, Any] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return "starting"
    speed = line.get("train/images_per_second")
    return f"step {line['step']}" + (f", {speed:.0f} images/s" if speed else "")


if __name__ == "__main__":
    command_line.run(main)
