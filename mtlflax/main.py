"""Train or evaluate the configuration in a config file.

    python -m mtlflax.main --config=configs/dwa.py [--workdir=DIR] [--mode=train|evaluate] [--config.KEY=VALUE ...]

Arguments of the config file follow a colon: --config=configs/dwa.py:quick. Any of its values can be changed:
--config.optimizer.learning_rate=0.001. SIGTERM and Ctrl-C stop a run after its step, which is saved; a second
Ctrl-C stops it at once. A run that was stopped is resumed by the same command.
With --mode=evaluate, a --workdir is enough: its config is the run's. Likewise with --extend --config.epochs=N, which
trains a run on to more epochs: the learning rate is, from there on, that of a run of N epochs.
"""

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from mtlflax import command_line
from mtlflax.errors import UserError
from mtlflax.run import config_file


def default_workdir(config: str) -> Path:
    """Return `runs/<config and arguments>`.

    >>> print(default_workdir("configs/dwa.py:densenet121,quick"))
    runs/dwa_densenet121_quick
    """
    path, arguments = config_file.split(config)
    arguments = (arguments or "").replace(" ", "").replace(":", ".")  # of package.module:name
    return Path("runs") / "_".join([path.stem, *arguments.split(",")]).strip("_")


def main(argv: Sequence[str]) -> None:
    """Parse the flags, and train or evaluate."""
    parser = command_line.Parser("mtlflax.main", __doc__)
    parser.add_argument("--config", metavar="FILE[:ARGUMENTS]", help="config file, such as configs/dwa.py:quick")
    parser.add_argument(
        "--workdir",
        type=command_line.path,
        metavar="DIR",
        help="where the run is kept (default: runs/<config and arguments>); one with a checkpoint is resumed",
    )
    parser.add_argument("--mode", choices=["train", "evaluate"], default="train", help="evaluate: the best checkpoint")
    parser.add_argument(
        "--extend",
        action="store_true",
        help="train a run to more epochs than it was begun with: those of --config.epochs",
    )
    hosts = parser.add_argument_group("several processes (default: what the environment or the cluster says)")
    hosts.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0")
    hosts.add_argument("--num_processes", default="", metavar="N", help="how many there are")
    hosts.add_argument("--process_id", default="", metavar="I", help="the number of this one, from 0")
    options, overrides = parser.parse_known_args(argv)
    if options.config is None and ((options.mode == "train" and not options.extend) or options.workdir is None):
        parser.error("--config is missing: try --config=configs/dwa.py:quick")
    workdir = options.workdir or default_workdir(options.config)
    try:
        config = _load_config(options.config, workdir, overrides)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    command_line.outlive_readers()
    flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags, which nobody else has parsed, when it starts processes
    try:
        # Here, so that --help answers at once and processes spawned to read data stay light.
        from mtlflax import train
        from mtlflax.run import compiled
        from mtlflax.run.signals import Stopped, leave, stop_now
        from mtlflax.training import cluster, parallel

        compiled.keep()
        found = cluster.initialize((options.coordinator, options.num_processes, options.process_id))
        parallel.say(found)
        # Not earlier, because JAX has a handler of its own where there are several processes.
        train_mode = options.mode == "train"
        signal.signal(signal.SIGTERM, stop_now if train_mode else leave)
        if options.mode == "train":
            with suppress(Stopped):  # saved, and said
                train.train_and_evaluate(config, workdir, extend=options.extend)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what takes a machine away may repeat it: this is the end
        else:
            train.evaluate_checkpoint(config, workdir)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and options.mode == "train":  # before the first step, or a second one
            message = f"stopped; run the same command again to resume from the latest checkpoint in {workdir}"
            print(f"\n{message}", file=sys.stderr)
        if not several_processes():
            raise
        # The others wait for this process's part of a sum, and JAX, on the way out, for them: so it leaves at once, and
        # what has started them all ends them.
        command_line.leave_at_once(error)


def several_processes() -> bool:
    """Whether this process has joined others; without waking a device."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _load_config(name: str | None, workdir: Path, overrides: Sequence[str]) -> ConfigDict:
    from mtlflax.run import workdir as workdirs  # here, as above

    if name is None:
        return config_file.override(workdirs.recorded_config(workdir), overrides)
    workdirs.recall_modules(workdir)  # first: the file may name modules of the run's own
    return config_file.load(name, overrides)


if __name__ == "__main__":
    command_line.run(main)
