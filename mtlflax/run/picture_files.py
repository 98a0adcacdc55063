"""Which pictures a folder or a pattern means, how they are read, and what the files made from them are called."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from mtlflax.data import photo
from mtlflax.errors import UserError

# What OpenCV reads in every build, and .gif, .avif, .jp2, which most builds read.
_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_SUFFIXES |= {".pbm", ".pnm", ".gif", ".avif", ".jp2"}
# Pictures longer than this many times their width, or the other way round, are skipped: memory grows with the aspect.
_MAX_ASPECT = 8


def find(pattern: str) -> tuple[list[Path], list[Path]]:
    """Return the pictures that a file name, a folder or a glob pattern means, and the files that are passed over.

    Passed over are files with another suffix (unless the pattern ends with it), hidden files (`._x.png`), and folders
    and broken links named like pictures. Both lists are sorted. UserError if there are no pictures.
    """
    if Path(pattern).is_file():  # first, because names may hold brackets
        return [Path(pattern)], []
    if Path(pattern).is_dir():
        entries = list(Path(pattern).iterdir())
    else:
        # glob.glob and not Path.glob: a pattern may start at the root.
        entries = [Path(p) for p in glob.glob(pattern, recursive=True)]  # noqa: PTH207 (see above)
    suffixes = (_SUFFIXES | {Path(pattern).suffix.lower()}) - {""}
    pictures, others = [], []
    for entry in sorted(entries):
        named_like_one = entry.suffix.lower() in suffixes
        if named_like_one and entry.is_file() and not entry.name.startswith("."):
            pictures.append(entry)
        elif named_like_one or not entry.is_dir():
            others.append(entry)
    if not pictures:
        passed = f" ({describe(others)})" if others else ""
        raise UserError(f"--images: no pictures at {pattern!r}{passed}: give a folder or a quoted pattern ('*.png')")
    return pictures, others


def describe(passed_over: Sequence[Path]) -> str:
    """Say how many files were passed over, and name the first few."""
    names = ", ".join(path.name for path in passed_over[:5])
    return f"{len(passed_over)} passed over: {names}{', …' if len(passed_over) > 5 else ''}"


def output_names(pictures: Sequence[Path]) -> list[Path]:
    """Return, for each picture, what its outputs are called, relative to the output folder, all different.

    That is its name without suffix; if two are alike, with the folders that tell them apart, or even with suffixes.

    >>> [str(name) for name in output_names([Path("in/p/a.png"), Path("in/q/b.jpg")])]
    ['a', 'b']
    >>> [str(name) for name in output_names([Path("in/p/a.png"), Path("in/q/a.png")])]
    ['p/a', 'q/a']
    >>> [str(name) for name in output_names([Path("in/a.png"), Path("in/a.jpg")])]
    ['a.png', 'a.jpg']
    """
    # Not resolved: pictures may be links to one file, and a link to itself has no end.
    absolute = [Path(os.path.abspath(path)) for path in pictures]  # noqa: PTH100 (Path.absolute leaves ..)
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    relative = [path.relative_to(common) for path in absolute]
    for names in ([Path(path.stem) for path in relative], [path.with_suffix("") for path in relative]):
        if len(set(names)) == len(names):
            return names
    return relative


def check_out(out: Path, found: Sequence[Path], names: Sequence[Path]) -> None:
    """Raise UserError if a map would be written where pictures are: over a file there, or to be taken for a picture."""
    targets = {(out / name).parent.resolve() for name in names}
    for path in found:
        if path.parent.resolve() in targets:
            raise UserError(
                f"--out={out} is where --images finds pictures ({path}): give another folder, so that no file there is "
                "overwritten and no map is taken for a picture the next time"
            )


def read(path: Path) -> photo.Photo:
    """Read a picture; UserError if it cannot be read or is too elongated."""
    picture = photo.read(path)
    check_aspect(path, picture.pixels.shape[:2])
    return picture


def check_aspect(path: Path, size: tuple[int, ...]) -> None:
    """Raise UserError for a picture whose size (H, W) is too elongated."""
    height, width = size
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise UserError(f"{path}: {height}×{width} is too elongated for a picture of a street")
