"""One way to name things: a built-in name, or "package.module:function" for your own.

Tasks, weighting methods, networks, encoders and data sources are all found by `find`. The folders that your own modules
were imported from are remembered (`origins`) and recorded with a run. Whatever uses the run later gets them from there
(`recall`), from any folder, and even if the current folder has another module of that name.
"""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtlflax.errors import UserError, describe

# Top-level module -> the folder it was imported from, for what `find` has imported in this process.
_origins: dict[str, str] = {}
# Top-level module -> the folder that a run has recorded for it.
_recorded: dict[str, str] = {}
_WHERE = "; modules are looked for beside the config file, in the current folder, and among what is installed"


def is_path(name: str) -> bool:
    """Whether a name has the form "package.module:function"."""
    return ":" in name


def find(name: str, builtin: Mapping[str, Any], *, what: str) -> Any:
    """Return the object that a name stands for.

    Args:
        name: a key of `builtin`, or "package.module:function".
        builtin: name → object.
        what: what is being looked for ("task", "network"), for the error message.

    Raises:
        UserError: the name is neither, or the module or its attribute cannot be found.

    >>> find("floor", {"floor": 1}, what="surface")
    1
    >>> find("math:tau", {}, what="number")
    6.283185307179586
    >>> find("flor", {"floor": 1}, what="surface")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    mtlflax.errors.UserError: unknown surface 'flor' (did you mean 'floor'?): choose from floor, or ...
    """
    if not isinstance(name, str):
        raise UserError(f"{what} is {name!r}: give a name")
    if name in builtin:
        return builtin[name]
    if not is_path(name):
        close = difflib.get_close_matches(name, builtin, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"unknown {what} {name!r}{hint}: choose from {', '.join(builtin)}, or give package.module:name")
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise UserError(f"{what} {name!r}: expected package.module:name")
    top = module_name.partition(".")[0]
    try:
        if top in _recorded and top not in sys.modules:
            _note_another(top)
        with _first(_recorded.get(top)):
            found: Any = importlib.import_module(module_name)
    except ImportError as error:
        where = "" if isinstance(error, ModuleNotFoundError) and error.name != top else _WHERE
        raise UserError(f"{what} {name!r}: cannot import {module_name}: {error}{where}") from error
    except Exception as error:
        raise UserError(f"{what} {name!r}: importing {module_name} failed: {describe(error)}") from error
    _remember(top)
    if _origins.get(top) != (recorded := _recorded.get(top, _origins.get(top))):
        raise UserError(
            f"{what} {name!r}: the run has {top} from {recorded}, but the config file imports the {top} in "
            f"{_origins.get(top)}: rename one of them"
        )
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f"{what} {name!r}: {found.__name__} has no {part!r}")
        found = getattr(found, part)
    return found


def origins() -> dict[str, str]:
    """Return the modules that `find` has imported: top-level name → the folder to import it from."""
    return dict(sorted(_origins.items()))


def search(folders: Iterable[str]) -> None:
    """Add folders to the end of the module search path, so that they hide nothing."""
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)


def recall(modules: Mapping[str, str]) -> None:
    """Have `find` import these modules, as recorded from `origins`, from their folders as long as those exist."""
    _recorded.clear()
    _recorded.update({top: folder for top, folder in modules.items() if Path(folder).is_dir()})


@contextmanager
def _first(folder: str | None) -> Iterator[None]:
    """Search a folder before all others, for what is imported meanwhile."""
    if folder is None:
        yield
        return
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def _note_another(top: str) -> None:
    """Say it if the current folder, for example, has another module of the name."""
    spec = importlib.util.find_spec(top)
    if spec and spec.origin and (other := _folder(spec.origin)) != Path(_recorded[top]):
        print(
            f"NOTE: {top} is imported from {_recorded[top]}, where the run has it from, not from {other}",
            file=sys.stderr,
        )


def _folder(file: str) -> Path:
    """The folder to import a module's file from."""
    path = Path(file).resolve()
    return path.parents[1] if path.name == "__init__.py" else path.parent


def _remember(top: str) -> None:
    file = getattr(sys.modules.get(top), "__file__", None)
    if top == "mtlflax" or file is None:
        return
    folder = _folder(file)
    if "site-packages" not in folder.parts and folder != Path(importlib.__file__).resolve().parents[1]:
        _origins[top] = str(folder)
