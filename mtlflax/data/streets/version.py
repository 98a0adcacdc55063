"""Which renderer this is, told from its source: frames that another one drew are not taken for its own."""

import functools
import hashlib
from pathlib import Path

from mtlflax.data import labels, units


def sources() -> tuple[Path, ...]:
    """The files that decide what is drawn, in a fixed order: this folder's, and what they take from elsewhere."""
    return (*sorted(Path(__file__).parent.glob("*.py")), Path(labels.__file__), Path(units.__file__))


@functools.cache
def digest() -> str:
    """12 hexadecimal digits that change with any of `sources`, be it by a comment: rendering anew takes minutes.

    They do not depend on the machine, nor on the versions of NumPy and OpenCV: with others the last bits of a frame may
    be other ones, which is no reason to render again.
    """
    content = hashlib.sha256()
    for path in sources():
        content.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return content.hexdigest()[:12]
