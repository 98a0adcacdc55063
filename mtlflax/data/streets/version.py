"""The version of the renderer, a hash of its source: cached frames of another version are not used."""

import functools
import hashlib
from pathlib import Path

from mtlflax.data import labels, units


def sources() -> tuple[Path, ...]:
    """Return the files that frames depend on, in a fixed order: this package and the modules that it uses."""
    return (*sorted(Path(__file__).parent.glob("*.py")), Path(labels.__file__), Path(units.__file__))


@functools.cache
def digest() -> str:
    """Return 12 hexadecimal digits that change with every edit of `sources`.

    Even a new comment makes a new version: rendering again takes minutes, a stale cache would go unnoticed. The machine
    and the versions of NumPy and OpenCV do not count: they may change the last bits of a frame, which is harmless.
    """
    content = hashlib.sha256()
    for path in sources():
        content.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return content.hexdigest()[:12]
