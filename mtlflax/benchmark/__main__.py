"""Time the train step of a config on this machine, or how fast its batches arrive.

    python -m mtlflax.benchmark --config=configs/dwa.py:quick [--steps=10] [--out=FILE.json] [--config.KEY=VALUE ...]
    python -m mtlflax.benchmark --what=input --config=configs/dwa.py [--seconds=10] [--config.data.cache=auto ...]
    python -m mtlflax.benchmark --what=compile --devices=256 --config=configs/dwa.py --config.batch_size=2048

With --what=compile nothing is run: the step is compiled for so many devices, simulated on the CPU, and the memory, the
operations and the collectives of one of them are told. A GPU's or TPU's compiler makes other programs; what is sent
between devices is about the same.

For the step no data is read: the batch is made up and lies on the devices. `--out` keeps the figures with date, device
and versions.
"""

import datetime
import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata

import jax
from jax.sharding import Mesh

from mtlflax import command_line, experiment
from mtlflax.benchmark import compile as compile_
from mtlflax.benchmark import input as input_speed
from mtlflax.benchmark import step
from mtlflax.errors import UserError
from mtlflax.files import write_text
from mtlflax.run import config_file
from mtlflax.training import parallel


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = command_line.Parser("mtlflax.benchmark", __doc__ or "")
    parser.add_argument("--config", metavar="FILE[:ARGUMENTS]", required=True, help="config file, as for mtlflax.main")
    parser.add_argument("--what", choices=("step", "input", "compile"), default="step", help="default: step")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="that are timed (default: 10)")
    parser.add_argument("--devices", type=int, metavar="N", help="with --what=compile: simulated (default: 8)")
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="of reading batches (default: 10)")
    parser.add_argument("--out", type=command_line.path, metavar="FILE", help="where to write the figures as JSON")
    options, overrides = parser.parse_known_args(argv)
    if options.steps < 1:
        parser.error(f"--steps={options.steps}: must be at least 1")
    if options.devices is not None and (options.what != "compile" or options.devices < 1):
        parser.error("--devices is for --what=compile, and at least 1")
    if options.what == "compile":  # before the first device is looked at
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", options.devices or 8)
    built = experiment.build(config_file.load(options.config, overrides))
    kind, devices = jax.devices()[0].device_kind, jax.device_count()
    if options.what == "input":
        read = input_speed.measure(built, seconds=options.seconds)
        print(
            f"{options.config}: {read.images_per_second:.4g} images/s at {built.size[0]}×{built.size[1]}, a batch of "
            f"{built.config.batch_size} each {read.median:.4g} s (p90 {read.p90:.4g}); {read.memory_megabytes:.0f} MB "
            f"in memory, {read.growth_megabytes:+.0f} MB since the first batches of {read.batch_megabytes:.3g} MB"
        )
        figures = read._asdict()
    elif options.what == "compile":
        mesh = _mesh(built)
        compiled = compile_.measure(built, mesh)
        print(compile_.text(compiled, options.config, kind))
        figures = compiled._asdict()
    else:
        mesh = _mesh(built)
        found = step.measure(built, mesh, steps=options.steps)
        print(
            f"{options.config} on {devices} × {kind}: {found.median:.4g} s per step (p90 {found.p90:.4g}), "
            f"{found.images_per_second:.4g} images/s, first step {found.compile_seconds:.1f} s"
        )
        figures = found._asdict()
    if options.out:
        content = {
            "what": options.what,
            "config": options.config,
            "overrides": overrides,
            "steps": built.total_steps,
            **figures,
            "device": kind,
            "devices": devices,
            "cpus": os.cpu_count(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {
                name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "grain", "numpy", "mtlflax")
            },
            "python": platform.python_version(),
        }
        write_text(options.out, json.dumps(content, indent=2) + "\n")


def _mesh(built: experiment.Experiment) -> Mesh:
    """All devices; UserError if they do not divide the batch."""
    mesh, config = parallel.make_mesh(), built.config
    if config.batch_size % (mesh.size * config.accumulate):
        raise UserError(
            f"config.batch_size is {config.batch_size}: must be a multiple of {mesh.size} devices × accumulate, "
            f"{config.accumulate}"
        )
    return mesh


if __name__ == "__main__":
    command_line.run(main)
