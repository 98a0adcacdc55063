"""Load the config file that a command names, with the overrides of its command line."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from mtlflax import command_line, registry
from mtlflax.errors import UserError, one_line


def split(name: str) -> tuple[Path, str | None]:
    """Split "configs/dwa.py:quick" into the file and its arguments; None if there is no colon."""
    file, colon, arguments = name.partition(":")
    return command_line.path(file), arguments if colon else None


def load(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Return the config of "configs/dwa.py:quick" and overrides "--config.KEY=VALUE", locked: it takes no new keys.

    The file's folder and the current folder are added to the module search path, so that modules of one's own that lie
    there are found; so is the folder that holds `configs`.

    Raises:
        UserError: there is no such file, there is an error in it (named with its line), or an override does not fit.
    """
    path, _ = _find(name)
    config = function(name, "get_config")()
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returns a {type(config).__name__}, not a ConfigDict")
    return override(config, overrides)


RESERVED = ("report", "cost", "compiled")  # folders that a sweep itself writes


class Entry(NamedTuple):
    """A run of a sweep."""

    name: str  # its folder, below the sweep's
    config: str  # as --config has it: "configs/dwa.py:quick"
    overrides: tuple[str, ...]  # "--config.KEY=VALUE"


def load_sweep(name: str) -> list[Entry]:
    """Return the runs of "configs/table1.py:quick": what its `sweep(add)`, or `sweep(add, "quick")`, adds.

    Each is added by `add(name, config, {"KEY": VALUE, ...})`; every config is loaded once, so that a mistake in one is
    found before any run starts. UserError as from `load`; and if a name occurs twice, or is no relative path.
    """
    path, _ = _find(name)
    entries: dict[str, Entry] = {}

    def add(name: str, config: str, values: Mapping[str, Any] | None = None) -> None:
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts or not parts or parts[0] in RESERVED:
            raise ValueError(f"run {name!r}: give a relative path, that does not begin with {' or '.join(RESERVED)}")
        for other in map(Path, entries):
            if other.is_relative_to(Path(name)) or Path(name).is_relative_to(other):
                raise ValueError(f"runs {str(other)!r} and {name!r}: each needs a folder of its own")
        entries[str(Path(name))] = entry(str(Path(name)), config, values)

    function(name, "sweep")(add)
    if not entries:
        raise UserError(f"{path}: its sweep adds no runs")
    for each in entries.values():
        try:
            load(each.config, each.overrides)
        except UserError as error:
            raise UserError(f"{path}: run {each.name!r}: {error}") from error
    return list(entries.values())


def entry(name: str, config: str, values: Mapping[str, Any] | None = None) -> Entry:
    """Return a run with overrides {"KEY": VALUE, ...}; None as a value stands for ''."""
    given = {key: "" if value is None else value for key, value in (values or {}).items()}
    return Entry(name, config, tuple(f"--config.{key}={value}" for key, value in given.items()))


def function(name: str, called: str) -> Callable[..., Any]:
    """Return a function of a config file "FILE:ARGUMENTS", called with the arguments behind its own.

    An error in it becomes a UserError with the file and the line.
    """
    path, arguments = _find(name)
    return lambda *own: _call(path, called, *own, *([] if arguments is None else [arguments]))


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Return a configuration, locked, with "--config.KEY=VALUE" applied; UserError if one does not fit."""
    # The last one counts; ml_collections would join tuples that are given twice.
    overrides = list({text.partition("=")[0]: text for text in overrides}.values())
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=overrides)
        rest = values(["", *overrides])[1:]
    except (AttributeError, KeyError) as error:
        raise UserError(f"the config has no key {one_line(error)}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(one_line(error)) from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}")
    return values["config"].value


def _find(name: str) -> tuple[Path, str | None]:
    """Return the config file and its arguments, and have the modules beside it found."""
    path, arguments = split(name)
    repository = Path(__file__).parents[2]
    if not path.is_file() and (repository / path).is_file():  # configs/dwa.py, from any folder
        path = repository / path
    if not path.is_file():
        raise UserError(f"--config: no such file: {path}")
    folder = path.resolve().parent
    # `from configs import common`: beside the file, or in this repository if the file lies elsewhere.
    for first in (repository, folder.parent)[: 1 + (folder.name == "configs")]:
        sys.path[:] = [str(first), *(entry for entry in sys.path if entry != str(first))]
    registry.search([str(folder), str(Path.cwd())])
    return path, arguments


def _call(path: Path, function: str, *arguments: Any) -> Any:
    """Run the file, and a function in it; an error in it becomes a `UserError` with the file and the line."""
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, function):
            raise UserError(f"{path}: has no function {function}")
        return getattr(module, function)(*arguments)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == path.absolute()]
        where = f"{path}, line {lines[-1]}" if lines else path
        raise UserError(f"{where}: {type(error).__name__}: {one_line(error)}") from error
