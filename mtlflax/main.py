"""Trains or evaluates what a config file says. This file parses flags; `mtlflax.train` does the work.

python -m mtlflax.main --config=configs/dwa.py [--workdir=DIR] [--mode=train|evaluate] [--config.KEY=VALUE ...]
"""

import ast
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

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
    workdir = Path(_WORKDIR.value).expanduser() if _WORKDIR.value else default_workdir(sys.argv)
    try:
        # As Ctrl-C does: what is being saved is saved, and no process that reads data is left behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        # Here, so that --help answers at once and processes spawned for reading data stay light.
        from mtlflax import train
        from mtlflax.training import parallel

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
    of_threads, unraisable = threading.excepthook, sys.unraisablehook
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else of_threads(args)
    # Where one of Orbax's writes fails, its event loop is closed, and the rest, as they end, find it so in C++ threads.
    sys.unraisablehook = lambda args: None if str(args.exc_value) == "Event loop is closed" else unraisable(args)


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; a mistake in them, or in the config file, is one line and exit code 2."""
    path, _ = config_flag(argv)
    try:
        if path is not None:
            if not path.is_file():
                raise UserError(f"--config: no such file: {path}")
            # Config files import `configs.common`: it lies beside them, or, for one kept elsewhere, in our repository.
            sys.path[:0] = [str(path.resolve().parent.parent), str(Path(__file__).parents[1])]
        rest = flags.FLAGS(argv)
        config = _CONFIG.value
        if path is not None and not isinstance(config, ConfigDict):
            getattr(config, "lock", None)  # where the file could not read something, this raises what it met
            raise UserError(f"{path}: get_config returns a {type(config).__name__}, not a ConfigDict")
        return rest
    except UserError as error:
        message = str(error)
    except Exception as error:
        own = path and _error_in_config_file(path, error)
        if own:
            message = own
        elif isinstance(error, KeyError | AttributeError):  # ml_collections' words for a key that is not there
            message = f"the config has no key {_in_one_line(error)}"
        elif isinstance(error, flags.Error | TypeError | ValueError):
            message = str(error)
        else:
            raise
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _error_in_config_file(path: Path, error: BaseException | None) -> str | None:
    """The file, the line and the error, where one came up in running a config file; None where it did elsewhere."""
    while error is not None:
        if isinstance(error, SyntaxError):
            return f"{error.filename}, line {error.lineno}: {error.msg}"
        frames = traceback.extract_tb(error.__traceback__)
        if lines := [frame.lineno for frame in frames if Path(frame.filename) == path]:
            return f"{path}, line {lines[-1]}: {type(error).__name__}: {_in_one_line(error)}"
        inner = error.__cause__ or error.__context__  # ml_collections and absl raise errors of their own for some kinds
        # A file that it could not open, of which only the text is left; get_config is missing or takes no argument.
        if inner is None and (isinstance(error, OSError) or "get_config" in str(error)):
            return f"{path}: {str(error).splitlines()[-1].strip()}"
        error = inner
    return None


def _in_one_line(error: BaseException) -> str:
    text = str(error)
    if "\\n" in text:  # a KeyError's text is quoted, and ml_collections makes others of it
        with contextlib.suppress(ValueError, SyntaxError):
            text = str(ast.literal_eval(text))
    return ". ".join(line.strip() for line in text.splitlines() if line.strip())


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse)
    except KeyboardInterrupt:  # before there was a run to stop
        sys.exit(130)
