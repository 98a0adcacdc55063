"""Search for good values of a config's keys with Optuna, ending trials early that fall behind.

    python launch/search.py configs/search.py:quick --out=DIR --trials=20

The config file has a function `search(trial)` that asks Optuna's trial for values and returns what to train: a config
and overrides, as in

    def search(trial):
        return "configs/ewdw.py:quick", {"optimizer.learning_rate": trial.suggest_float("rate", 1e-4, 1e-1, log=True)}

Each trial is a run in DIR/trial<number>, judged by its `config.best.metric`; one that is below the median of the others
at the same evaluation is ended. The study is DIR/study.log: run the same command again to resume it, or at the same
time in other terminals and on other hosts that share the folder, to search together. Choose on frames held out
(`data.validation = "holdout"`), so that `val` stays a test set.
"""

import argparse
import json
import logging
import os
import platform
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch import sweep
from mtlflax import command_line
from mtlflax.errors import UserError
from mtlflax.files import plain_errors
from mtlflax.run import config_file, evaluations, workdir
from mtlflax.run.config_file import Entry

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import Trial, TrialState
except ImportError:
    optuna = None


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit code: 1 if a trial failed."""
    parser = argparse.ArgumentParser("python launch/search.py", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", metavar="FILE[:ARGUMENTS]", help="a config file with a function search(trial)")
    parser.add_argument("--out", type=command_line.path, required=True, metavar="DIR", help="where trials are kept")
    parser.add_argument("--trials", type=int, required=True, metavar="N", help="so many in all, by all processes")
    parser.add_argument("--warmup", type=int, default=2, metavar="N", help="trials that are never ended early (2)")
    options = parser.parse_args(argv)
    if optuna is None:
        raise UserError("a search needs Optuna: pip install -e '.[search]', or pip install optuna")
    if options.trials < 1 or options.warmup < 0:
        parser.error("--trials must be at least 1, and --warmup at least 0")
    search = config_file.function(options.config, "search")
    optuna.logging.set_verbosity(logging.WARNING)
    out = options.out.absolute()
    with plain_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    best = _best(search, options.config)
    try:
        study = optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(out / "study.log"))),
            direction="maximize" if best["mode"] == "max" else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=options.warmup),
            load_if_exists=True,
        )
    except (ValueError, KeyError) as error:  # UnicodeDecodeError and JSONDecodeError among them
        raise UserError(f"{out / 'study.log'}: is damaged ({error}): give another --out") from error
    signal.signal(signal.SIGTERM, sweep.stop)
    failed, waiting = 0, False
    try:
        while True:
            _take_up(study, out)
            count = failed + len(study.get_trials(deepcopy=False, states=(*_DONE, TrialState.RUNNING)))
            if count < options.trials:
                failed += not _run(study, search, out, best["metric"], f"[{count + 1}/{options.trials}]")
            elif orphans := _orphans(study):
                if not waiting:
                    print(f"{', '.join(orphans)}: left behind, and still being trained; waiting for it", flush=True)
                waiting = True
                time.sleep(1)
            else:
                break
    except (KeyboardInterrupt, SystemExit):
        print("stopped; run the same command again to resume", file=sys.stderr)
        raise
    _say_best(study, out, best["metric"])
    return 1 if failed else 0


def _best(search: Any, name: str) -> dict[str, Any]:
    """What decides, by the config of a trial whose values are made up; UserError if the config cannot be loaded."""
    with warnings.catch_warnings(action="ignore"):
        trial = optuna.create_study().ask()
    config = _load(search, trial, name)[1]
    metric = config.best.metric
    if config.data.validation == "holdout":
        metric = metric.replace("val/", "holdout/", 1)
    return {"metric": metric, "mode": config.best.mode}


def _load(search: Any, trial: "Trial", name: str) -> tuple[Entry, Any]:
    """What to train for the values of a trial, and its config."""
    wanted = search(trial)
    if not (isinstance(wanted, tuple) and len(wanted) == 2 and isinstance(wanted[0], str)):
        raise UserError(f"{name}: search(trial) must return a config and a dict of overrides, not {wanted!r}")
    entry = config_file.entry(f"trial{trial.number}", *wanted)
    return entry, config_file.load(entry.config, entry.overrides)


def _take_up(study: "optuna.Study", out: Path) -> None:
    """Have trials that a killed process has left behind run again, in the folders where they are."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        folder = trial.user_attrs.get("folder", f"trial{trial.number}")
        if not workdir.is_locked(out / folder) and not _is_searched(trial):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={"folder": folder})
            print(f"{folder} was left behind: it is resumed", flush=True)


def _orphans(study: "optuna.Study") -> list[str]:
    """The folders of trials whose process on this host was killed, while their runs go on."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    here = [trial for trial in running if trial.user_attrs.get("process", "").startswith(f"{platform.node()} ")]
    return [trial.user_attrs["folder"] for trial in here if not _is_searched(trial)]


def _is_searched(trial: Any) -> bool:
    """Whether the process that runs a trial is still there, though its run may not have locked its folder yet."""
    host, _, process = trial.user_attrs.get("process", "").partition(" ")
    if not process:  # killed, or about to say which process it is
        return trial.datetime_start is None or time.time() - trial.datetime_start.timestamp() < 60
    if host != platform.node():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _run(study: "optuna.Study", search: Any, out: Path, metric: str, label: str) -> bool:
    """Train the next trial; return whether it went well."""
    trial = study.ask()
    try:
        entry, _ = _load(search, trial, "search")
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    folder = trial.user_attrs.get("folder", entry.name)
    trial.set_user_attr("folder", folder)
    trial.set_user_attr("process", f"{platform.node()} {os.getpid()}")
    values = ", ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
    print(f"{label} {folder}: {values}", flush=True)
    process = sweep.start(entry._replace(name=folder), out)
    told: set[int] = set()
    try:
        while (code := process.poll()) is None:
            time.sleep(0.5)
            if _report(trial, out / folder, metric, told) and trial.should_prune():
                process.terminate()
                process.wait()
                study.tell(trial, state=TrialState.PRUNED)
                print(f"    {folder}: behind the others at step {max(told)}, ended", flush=True)
                return True
    except BaseException:
        process.terminate()
        process.wait()
        raise
    score = _score(out / folder, metric)
    if code or score is None or not evaluations.finished(out / folder):  # one that was stopped ends with code 0
        study.tell(trial, state=TrialState.FAIL)
        print(f"    {folder}: FAILED: {sweep.last_line(out / folder / 'output.txt')}", flush=True)
        return False
    study.tell(trial, score)
    print(f"    {folder}: {metric} {score:.4f}", flush=True)
    return True


def _report(trial: "Trial", folder: Path, metric: str, told: set[int]) -> bool:
    """Tell Optuna of evaluations that it has not heard of; return whether there were any."""
    new = False
    for line in (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # being written
            continue
        if isinstance(entry.get(metric), float) and entry["step"] not in told:
            told.add(entry["step"])
            trial.report(entry[metric], entry["step"])
            new = True
    return new


def _score(folder: Path, metric: str) -> float | None:
    for which in (evaluations.BEST, evaluations.LAST):
        try:
            return float(json.loads((folder / which).read_text())[metric])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _say_best(study: "optuna.Study", out: Path, metric: str) -> None:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        print("no trial was finished")
        return
    best = study.best_trial
    print(f"best of {len(done)} finished trials: {metric} {best.value:.4f}, in {out / best.user_attrs['folder']}")
    for name, value in best.params.items():
        print(f"    {name} = {_short(value)}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_DONE = (TrialState.COMPLETE, TrialState.PRUNED) if optuna else ()


if __name__ == "__main__":
    command_line.run(main)
