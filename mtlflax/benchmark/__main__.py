"""Time the train step of a config on this machine.

    python -m mtlflax.benchmark --config=configs/dwa.py:quick [--steps=10] [--out=FILE.json] [--config.KEY=VALUE ...]

No data is read: the batch is made up and lies on the devices. `--out` keeps the figures with date, device and versions.
"""

import datetime
import json
import platform
from collections.abc import Sequence
from importlib import metadata

from mtlflax import command_line, experiment
from mtlflax.benchmark import step
from mtlflax.errors import UserError
from mtlflax.files import write_text
from mtlflax.run import config_file
from mtlflax.training import parallel


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = command_line.Parser("mtlflax.benchmark", __doc__ or "")
    parser.add_argument("--config", metavar="FILE[:ARGUMENTS]", required=True, help="config file, as for mtlflax.main")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="that are timed (default: 10)")
    parser.add_argument("--out", type=command_line.path, metavar="FILE", help="where to write the figures as JSON")
    options, overrides = parser.parse_known_args(argv)
    if options.steps < 1:
        parser.error(f"--steps={options.steps}: must be at least 1")
    built = experiment.build(config_file.load(options.config, overrides))
    mesh = parallel.make_mesh()
    if built.config.batch_size % mesh.size:
        raise UserError(f"config.batch_size is {built.config.batch_size}: must be a multiple of {mesh.size} devices")
    found = step.measure(built, mesh, steps=options.steps)
    kind = mesh.devices.flat[0].device_kind
    print(
        f"{options.config} on {mesh.size} × {kind}: {found.median:.4g} s per step (p90 {found.p90:.4g}), "
        f"{found.images_per_second:.4g} images/s, first step {found.compile_seconds:.1f} s"
    )
    if options.out:
        content = {
            "config": options.config,
            "overrides": overrides,
            "steps": built.total_steps,
            **found._asdict(),
            "device": kind,
            "devices": mesh.size,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy", "mtlflax")},
            "python": platform.python_version(),
        }
        write_text(options.out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    command_line.run(main)
