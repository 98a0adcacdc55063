"""Time the train step of a config on this machine, how fast its batches arrive, and how fast it predicts.

    python -m mtlflax.benchmark --config=configs/dwa.py:quick [--steps=10] [--out=FILE.json] [--config.KEY=VALUE ...]
    python -m mtlflax.benchmark --what=input --config=configs/dwa.py [--seconds=10] [--config.data.cache=auto ...]
    python -m mtlflax.benchmark --what=together --config=configs/dwa.py      the step fed by the input; or predict, all
    python -m mtlflax.benchmark --weightings=dwa,cagrad,cagrad@representation --config=configs/dwa.py     beside equal
    python -m mtlflax.benchmark --what=predict --sweep=configs/all_networks.py        a table; or any sweep, any --what
    python -m mtlflax.benchmark --what=compile --devices=256 --config=configs/dwa.py --config.batch_size=2048

For steps and predictions no data is read: the batch is made up and lies on the devices. `--weightings=all` takes all
methods; `@representation` balances the gradients of features instead of parameters. `--out` keeps the figures with
date, device and versions; `--profile=DIR` leaves a trace of the steps for XProf or Perfetto.

With --what=compile nothing is run: the step is compiled for so many devices, simulated on the CPU, and the memory, the
operations and the collectives of one of them are printed. A GPU's or TPU's compiler makes other programs; what is sent
between devices is about the same.
"""

import datetime
import json
import os
import platform
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import metadata
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mtlflax import command_line, experiment, weighting
from mtlflax.benchmark import compile as compile_
from mtlflax.benchmark import input as input_speed
from mtlflax.benchmark import methods, predict, step, together
from mtlflax.errors import UserError
from mtlflax.files import check_writable, finite_or_none, plain_errors, write_text
from mtlflax.run import config_file
from mtlflax.run.prepare_data import describe_data
from mtlflax.training import parallel

_VERSIONS = ("jax", "jaxlib", "flax", "grain", "numpy", "mtlflax")


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = command_line.Parser("mtlflax.benchmark", __doc__ or "")
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--config", metavar="FILE[:ARGUMENTS]", help="config file, as for mtlflax.main")
    of.add_argument(
        "--sweep", metavar="FILE[:ARGUMENTS]", help="config file of a sweep, each of whose runs is measured"
    )
    parser.add_argument("--what", choices=(*_MEASURED, "all", "compile"), default="step", help="default: step")
    parser.add_argument("--weightings", default="", metavar="NAMES", help="compare the steps of these methods, or all")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="that are timed (default: 10)")
    parser.add_argument("--devices", type=int, metavar="N", help="with --what=compile: simulated (default: 8)")
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="of reading batches (default: 10)")
    parser.add_argument("--profile", type=command_line.path, metavar="DIR", help="where to leave a trace")
    parser.add_argument("--out", type=command_line.path, metavar="FILE", help="where to write the figures as JSON")
    options, overrides = parser.parse_known_args(argv)
    if options.steps < 1:
        parser.error(f"--steps={options.steps}: must be at least 1")
    if not 0 <= options.seconds < 1e6:
        parser.error(f"--seconds={options.seconds:g}: must be a number from 0 to a million")
    if options.devices is not None and (options.what != "compile" or options.devices < 1):
        parser.error("--devices is for --what=compile, and at least 1")
    if options.weightings and options.what != "step":
        parser.error("--weightings is for --what=step")
    if options.what == "compile":  # before the first device is looked at
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", options.devices or 8)
    entries = config_file.load_sweep(options.sweep) if options.sweep else [config_file.entry("", options.config)]
    print(f"{options.sweep or options.config} on {jax.device_count()} × {jax.devices()[0].device_kind}")
    figures: dict[str, Any] = {}
    _check_outputs(options)
    with jax.profiler.trace(str(options.profile)) if options.profile else nullcontext():
        for entry in entries:
            if entry.name:
                print(f"{entry.name} ", end="", flush=True)
            config = config_file.load(entry.config, [*entry.overrides, *overrides])
            built = experiment.build(config)
            if options.what in ("input", "together", "all"):
                print(f"data: {describe_data(built.config)}")
            figures[entry.name] = {"total_steps": built.total_steps, "data": built.config.data.name}
            figures[entry.name] |= _measure(config, built, options)
            jax.clear_caches()  # the programs of the one before
            if options.out:  # after each: a later one may fail
                found = {"runs": figures} if options.sweep else figures[""]
                write_text(options.out, json.dumps(_facts(options, overrides) | found, indent=2) + "\n")
    if options.sweep and options.what == "predict":
        print(predict.table(figures))


def _check_outputs(options: Namespace) -> None:
    """UserError if what is measured could not be written, before minutes are spent on it."""
    if options.out:
        check_writable(options.out)
    if options.profile:
        with plain_errors(options.profile):
            options.profile.mkdir(parents=True, exist_ok=True)


def _step(built: experiment.Experiment, options: Namespace) -> dict[str, Any]:
    found = step.measure(built, _mesh(built), steps=options.steps)
    print(f"step: {step.text(found)}")
    return found._asdict()


def _input(built: experiment.Experiment, options: Namespace) -> dict[str, Any]:
    found = input_speed.measure(built, seconds=options.seconds)
    print(
        f"input: {found.images_per_second:.4g} images/s on average, at {built.size[0]}×{built.size[1]}; a batch of "
        f"{built.config.batch_size} took {found.median:.4g} s (median; p90 {found.p90:.4g}); "
        f"{found.memory_megabytes:.0f} MB in memory, "
        f"{found.growth_megabytes:+.0f} MB since the first batches of {found.batch_megabytes:.3g} MB"
    )
    return found._asdict()


def _predict(built: experiment.Experiment, options: Namespace) -> dict[str, Any]:
    found = predict.measure(built, repeats=options.steps)
    print(f"predict: {predict.text(found)}")
    return found._asdict()


def _together(built: experiment.Experiment, options: Namespace) -> dict[str, Any]:
    found = together.measure(built, _mesh(built), steps=options.steps)
    print(f"together: {together.text(found)}")
    return found._asdict()


_MEASURED = {"step": _step, "input": _input, "together": _together, "predict": _predict}


def _measure(config: ConfigDict, built: experiment.Experiment, options: Namespace) -> dict[str, Any]:
    """Measure and print what was asked for; return the figures."""
    if options.weightings:
        names = weighting.names() if options.weightings == "all" else [n for n in options.weightings.split(",") if n]
        rows = []
        for found in methods.compare(config, names, _mesh(built), steps=options.steps):
            rows.append({key: finite_or_none(value) for key, value in found._asdict().items()} | {"ratio": found.ratio})
            seconds = f"{found.seconds:.4g} s beside {found.equal_seconds:.4g} s"
            known = finite_or_none(found.operations_ratio) is not None
            work = f", {found.operations_ratio:.2f} × the operations" if known else ""  # unknown under pmap
            print(f"{found.method:24} {found.ratio:.2f} × equal weights ({seconds}){work}", flush=True)
        return {"weightings": rows}
    if options.what == "compile":
        compiled = compile_.measure(built, _mesh(built))
        print(compile_.text(compiled))
        if built.config.accumulate > 1:
            print(
                "NOTE: the parts of a batch are a loop, which is counted once: operations, and BatchNorm's collectives"
            )
        return compiled._asdict()
    if options.what != "all":
        return {name: finite_or_none(value) for name, value in _MEASURED[options.what](built, options).items()}
    every = {name: measure(built, options) for name, measure in _MEASURED.items()}
    return {name: {k: finite_or_none(v) for k, v in figures.items()} for name, figures in every.items()}


def _facts(options: Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    return {
        "what": options.what,
        "config": options.config or options.sweep,
        "overrides": overrides,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cpus": os.cpu_count(),
        "timed_steps": options.steps,
        "seconds_of_input": options.seconds,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in _VERSIONS},
        "python": platform.python_version(),
    }


def _mesh(built: experiment.Experiment) -> Mesh:
    """All devices; UserError if they do not divide the batch."""
    mesh, config = parallel.make_mesh(), built.config
    if config.batch_size % (mesh.size * config.accumulate):
        raise UserError(
            f"config.batch_size is {config.batch_size}: must be a multiple of {mesh.size} devices × accumulate, "
            f"{config.accumulate}; --what=compile takes the number of devices from --devices"
        )
    return mesh


if __name__ == "__main__":
    command_line.run(main)
