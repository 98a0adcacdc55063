"""Trains or evaluates what a config file says. This file parses flags; `mtlflax.train` does the work.

python -m mtlflax.main --config=configs/dwa.py [--workdir=DIR] [--mode=train|evaluate] [--config.KEY=VALUE ...]
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from mtlflax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, with arguments after a colon: configs/dwa.py:quick",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run is kept; default runs/<config and arguments>. One that exists is resumed.",
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "Train, or evaluate the best checkpoint.")


def config_flag(argv: Sequence[str]) -> tuple[Path | None, tuple[str, ...]]:
    """The config file and its arguments, as given on the command line."""
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            value = value if equals else "".join(argv[i + 1 : i + 2])
            path, _, arguments = value.partition(":")
            return Path(path), tuple(part.strip() for part in arguments.split(",") if part.strip())
    return None, ()


def default_workdir(argv: Sequence[str]) -> Path:
    """`runs/<config and arguments>`: runs/dwa_quick for --config=configs/dwa.py:quick."""
    path, arguments = config_flag(argv)
    return Path("runs") / "_".join([path.stem if path else "run", *arguments])


def main(argv: Sequence[str]) -> None:
    """Runs with the flags parsed."""
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}: flags are --config, --workdir, --mode, --config.KEY")
    if _CONFIG.value is None:
        sys.exit("error: --config is missing: try --config=configs/dwa.py:quick")
    _be_quiet()
    workdir = Path(_WORKDIR.value) if _WORKDIR.value else default_workdir(sys.argv)
    try:
        # As Ctrl-C does: what is being saved is saved, and no process that reads data is left behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        # Here, so that --help answers at once and processes spawned for reading data stay light.
        from mtlflax import parallel, train

        parallel.initialize()
        if _MODE.value == "train":
            train.train_and_evaluate(_CONFIG.value, workdir)
        else:
            train.evaluate_checkpoint(_CONFIG.value, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # threads that met the same error (a full disk) would print their tracebacks after it
    except KeyboardInterrupt:
        print(f"\nstopped. The same command goes on from the last checkpoint in {workdir}", file=sys.stderr)
        sys.exit(130)


def _be_quiet() -> None:
    """Lets errors be said once: Orbax logs what it raises, as do its threads, and TensorBoard's meets what we meet."""
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().addFilter(
        lambda record: "orbax" not in record.pathname and record.name != "concurrent.futures"
    )
    usual = threading.excepthook
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else usual(args)


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; a mistake in them is one line and exit code 2."""
    try:
        path, _ = config_flag(argv)
        if path is not None:
            if not path.is_file():
                raise UserError(f"--config: no such file: {path}")
            # Config files import `configs.common`: it lies beside them, or, for one kept elsewhere, in our repository.
            sys.path[:0] = [str(path.resolve().parent.parent), str(Path(__file__).parents[1])]
        return flags.FLAGS(argv)
    except (KeyError, AttributeError) as error:  # ml_collections' words for a key that is not there
        key = str(error).replace("\\n", ". ").replace("\\", "").replace('"', "")
        print(f"error: the config has no key {key}", file=sys.stderr)
    except (UserError, flags.Error, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse)
    except KeyboardInterrupt:  # before there was a run to stop
        sys.exit(130)
