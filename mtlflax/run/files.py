"""Writing files whole or not at all, and disk errors in plain words."""

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtlflax.errors import UserError


@contextmanager
def plain_errors(what: Path) -> Iterator[None]:
    """Turns a full disk, a read-only folder and the like into a `UserError` that names `what`."""
    try:
        yield
    except OSError as error:
        cure = (
            "Free some space or give another --workdir." if error.errno == errno.ENOSPC else "Give another --workdir."
        )
        where = "" if error.filename in (None, str(what)) else f" ({error.filename})"
        raise UserError(f"cannot write {what}: {error.strerror or error}{where}\n{cure}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all; numbers that are not finite become null, as JSON has none."""
    content = {key: finite_or_none(value) for key, value in content.items()}
    with plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")
        temporary.replace(path)


def finite_or_none(value: Any) -> Any:
    """Return the value, or None for a float that is NaN or infinite: JSON has no number for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
