"""Time the train step of a config on this machine, or how fast its batches arrive.

    python -m mtlflax.benchmark --config=configs/dwa.py:quick [--steps=10] [--out=FILE.json] [--config.KEY=VALUE ...]
    python -m mtlflax.benchmark --what=input --config=configs/dwa.py [--seconds=10] [--config.data.cache=auto ...]

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

from mtlflax import command_line, experiment
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
    parser.add_argument("--what", choices=("step", "input"), default="step", help="what is timed (default: step)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="that are timed (default: 10)")
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="of reading batches (default: 10)")
    parser.add_argument("--out", type=command_line.path, metavar="FILE", help="where to write the figures as JSON")
    options, overrides = parser.parse_known_args(argv)
    if options.steps < 1:
        parser.error(f"--steps={options.steps}: must be at least 1")
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
    else:
        mesh = parallel.make_mesh()
        if built.config.batch_size % mesh.size:
            raise UserError(
                f"config.batch_size is {built.config.batch_size}: must be a multiple of {mesh.size} devices"
            )
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


if __name__ == "__main__":
    command_line.run(main)
