"""Which files make up a frame, and which frames a split.

A pattern is a path below the root. In it

* `{word}` stands for a part of a file's or a folder's name, as does `*`, which needs no name; `**` for any number of
  folders;
* `{split}` stands for what `splits` has for the split ("train", "val"): a name, or several;
* a last part without a suffix, such as `*` or `{frame}`, stands for a file with any suffix of its kind.

A field's file belongs to the image for which the words stand for the same; `*` are compared one by one from the left.
So `depth/*` belongs to `images/*`, and `{drive}/image/{n}.png` has `{drive}/groundtruth/{n}.png`. Words that only the
image has are not compared.

A split is what `{split}` says, in the image's pattern or, if that has none, in a field's: then the frames that have a
file there. Or `splits` names text files that list the frames, by the name of the frame or of its image. Else a share of
all frames, `val_share`, is "val": which ones depends on their names alone.
"""

import csv
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mtlflax.data import paths
from mtlflax.errors import UserError
from mtlflax.files import read_bytes

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".pgm", ".avif", ".jp2")
_TOKEN = re.compile(r"\{(\w+)\}|(\*\*/?|\*)")
_SPLIT = "{split}"


class Frame(NamedTuple):
    """A frame's name, and its files: "image" and those of the fields that it has."""

    name: str
    files: Mapping[str, Path]
    numbers: Mapping[str, float] = {}  # of a list: columns that hold numbers


class Pattern:
    """A pattern, for one split."""

    def __init__(self, pattern: str, folders: Sequence[str], suffixes: Sequence[str]) -> None:
        """`folders` is what {split} stands for; ValueError for a pattern that is no path below the root."""
        self._folders = folders
        self.text = pattern.replace(_SPLIT, folders[0]) if len(folders) == 1 else pattern
        parts = Path(self.text).parts
        if not parts or Path(self.text).is_absolute() or ".." in parts:
            raise ValueError(f"{pattern!r}: give a path below the root")
        if "{" in _TOKEN.sub("", self.text) or "}" in _TOKEN.sub("", self.text):
            raise ValueError(f"{pattern!r}: braces hold one word, as in {{frame}}")
        self.words: list[str] = []  # in the order of their first places
        expression, start = "", 0
        for token in _TOKEN.finditer(self.text):
            expression += re.escape(self.text[start : token.start()])
            expression += self._group(token[1], token[2])
            start = token.end()
        expression += re.escape(self.text[start:])
        if not Path(self.text).suffix or self.text.endswith(("}", "*")):
            expression += "(?i:" + "|".join(map(re.escape, suffixes)) + ")"
        self._expression = re.compile(expression)
        plain = [part for part in parts if not _TOKEN.search(part)]
        fixed = next((i for i, part in enumerate(parts) if _TOKEN.search(part)), len(parts) - 1)
        self.folder = Path(*plain[:fixed]) if fixed else Path()
        self.deep = "**" in self.text or len(parts) - fixed > 1

    def _group(self, word: str | None, stars: str | None) -> str:
        inside = r"[^/]+?"
        if word is None:
            word = f"_{sum(name.startswith('_') for name in self.words)}"
            inside = inside if stars == "*" else r"(?:[^/]+/)*" if stars == "**/" else r".*"
        elif word == "split":
            inside = "|".join(map(re.escape, self._folders))
        if word in self.words:
            return f"(?P={word})"
        self.words.append(word)
        return f"(?P<{word}>{inside})"

    def match(self, path: str) -> dict[str, str] | None:
        """Return what the words stand for in a path below the root; None if it does not fit."""
        found = self._expression.fullmatch(path)
        return found.groupdict() if found else None


def find(root: Path, pattern: Pattern) -> dict[str, dict[str, str]]:
    """Return the files that fit: path below the root → what the words stand for. UserError if it cannot be listed."""
    found = {}
    for path in paths.files(root, root / pattern.folder, deep=pattern.deep):
        words = pattern.match(path)
        if words is not None:
            found[path] = words
    return found


def match(
    root: Path,
    split: str,
    image: str,
    fields: Mapping[str, tuple[str, Sequence[str]]],
    splits: Mapping[str, str | Sequence[str]],
    val_share: float,
) -> tuple[list[Frame], dict[str, list[str]]]:
    """Return a split's frames, sorted by name, and the files that belong to none: field → paths.

    `fields` is field → its pattern, and the suffixes that its files may have.

    Raises:
        UserError: nothing fits the image's or a field's pattern, or two files are the same frame's.
        ValueError: a pattern that cannot be, or a field with a word that the image's pattern lacks.
    """
    lists = {name: str(value) for name, value in splits.items() if str(value).lower().endswith(".txt")}
    given = splits.get(split, split)
    folders = (given,) if isinstance(given, str) else tuple(given)
    by_folder = _SPLIT in image or any(_SPLIT in pattern for pattern, _ in fields.values())
    if by_folder and lists:
        raise ValueError("splits: give either text files, or {split} in the patterns")
    pattern = Pattern(image, folders, PICTURES)
    images = _by_words(find(root, pattern), pattern.words, "image")
    if not images:
        raise UserError(f"{root}: no file fits data.folder.image, {pattern.text!r}{_hint(root, pattern)}")
    files: dict[tuple[str, ...], dict[str, Path]] = {key: {"image": root / path} for key, path in images.items()}
    unused: dict[str, list[str]] = {}
    members = set(files)
    for name, (text, suffixes) in fields.items():
        wanted = Pattern(text, folders, suffixes)
        if surplus := [word for word in wanted.words if word not in (*pattern.words, "split")]:
            shown = "*" if surplus[0].startswith("_") else f"{{{surplus[0]}}}"
            raise ValueError(f"data.folder.fields.{name}.files is {text!r}: the image's pattern has no {shown} for it")
        found = find(root, wanted)
        if not found:
            raise UserError(
                f"{root}: no file fits data.folder.fields.{name}.files, {wanted.text!r}{_hint(root, wanted)} "
                "(give '' if there are none, and leave its task out of config.tasks)"
            )
        words = [word for word in pattern.words if word in wanted.words]
        theirs = _by_words(found, words, name)
        places = [pattern.words.index(word) for word in words]
        used = set()
        for key, of_frame in files.items():
            part = tuple(key[place] for place in places)
            if part in theirs:
                of_frame[name] = root / theirs[part]
                used.add(part)
        unused[name] = sorted(path for key, path in theirs.items() if key not in used)
        if _SPLIT in text and _SPLIT not in image:
            members &= {key for key, of_frame in files.items() if name in of_frame}
    frames = [Frame(_name(key), files[key]) for key in sorted(members)]
    if not by_folder:
        frames = _listed_in(root, lists, split, frames) if lists else share(frames, split, val_share)
    return frames, unused


def read_list(path: Path, root: Path, split: str, val_share: float) -> list[Frame]:
    """Return the frames of a split from a list: CSV with a header, or JSON, a list of objects.

    Its columns are "image" and the names of fields, with paths below the root, empty where a frame lacks the field; and
    perhaps "split" and "name". Numbers (such as focal_baseline) stand there themselves. Without "split", `val_share` of
    the frames are "val". UserError for a list that cannot be read, or names a file that is not there.
    """
    text = read_bytes(path).decode(errors="replace").lstrip("\ufeff")
    try:
        rows = json.loads(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("it is no list of objects")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: is no list of frames: {error}") from error
    frames, chosen = [], []
    listed = functools.cache(lambda folder: frozenset(paths.names(folder)))
    for number, row in enumerate(rows, 1):
        given = {str(key).strip(): value for key, value in row.items() if key and value not in (None, "")}
        if not given.get("image"):
            raise UserError(f"{path}, frame {number}: has no image: columns are image, fields, split, name")
        name = str(given.pop("name", "") or Path(str(given["image"])).with_suffix("").as_posix())
        of_split = given.pop("split", None)
        files, numbers = {}, {}
        for key, value in given.items():
            try:
                numbers[key] = float(value)
            except (TypeError, ValueError):
                files[key] = root / str(value)
                if files[key].name not in listed(files[key].parent):
                    raise UserError(f"{path}, frame {number}: {key} is {files[key]}, which is not there") from None
        frames.append(Frame(name, files, numbers))
        chosen.append(of_split)
    if not frames:
        raise UserError(f"{path}: has no frames")
    if twice := [name for name, count in Counter(frame.name for frame in frames).items() if count > 1]:
        raise UserError(f"{path}: the frame {twice[0]!r} is there twice: give the column name")
    if any(of_split is not None for of_split in chosen):
        return sorted((f for f, s in zip(frames, chosen, strict=True) if s == split), key=lambda frame: frame.name)
    return share(sorted(frames, key=lambda frame: frame.name), split, val_share)


def share(frames: Sequence[Frame], split: str, val_share: float) -> list[Frame]:
    """Return the frames of "val", a share of all of them, at least one, or the rest; by their names alone."""
    if not 0 < val_share < 1:
        raise ValueError(f"data.folder.val_share is {val_share:g}: give a share between 0 and 1")
    count = min(max(1, round(val_share * len(frames))), len(frames) - 1)
    drawn = sorted(frames, key=lambda frame: hashlib.sha256(frame.name.encode("utf-8", "surrogateescape")).digest())
    held = {frame.name for frame in drawn[:count]}
    return [frame for frame in frames if (frame.name in held) == (split == "val")]


def _by_words(found: Mapping[str, Mapping[str, str]], words: Sequence[str], what: str) -> dict[tuple[str, ...], str]:
    keyed: dict[tuple[str, ...], str] = {}
    for path, values in found.items():
        key = tuple(values[word] for word in words)
        if key in keyed:
            raise UserError(f"{keyed[key]} and {path} are both the {what} of one frame: remove one, or say the suffix")
        keyed[key] = path
    return keyed


def _name(key: Sequence[str]) -> str:
    return "/".join(part.strip("/") for part in key if part.strip("/")) or "frame"


def _hint(root: Path, pattern: Pattern) -> str:
    """What there is where the files were looked for."""
    folder = root / pattern.folder
    if not paths.is_dir(folder):
        there = sorted(name for name in paths.names(root) if not name.startswith("."))[:8]
        return f": there is no folder {folder}; {root} holds {', '.join(there) or 'nothing'}"
    files = paths.files(root, folder, deep=pattern.deep)
    return f": {folder} holds {files[0]}, ..." if files else f": {folder} holds no files"


def _listed_in(root: Path, lists: Mapping[str, str], split: str, frames: Sequence[Frame]) -> list[Frame]:
    if split not in lists:
        raise ValueError(f"data.folder.splits has text files, but none for {split}")
    path = root / lists[split]
    lines = [line.split()[0] for line in read_bytes(path).decode(errors="replace").splitlines() if line.split()]
    known: dict[str, Frame | None] = {}
    for frame in frames:
        image = frame.files["image"].relative_to(root)
        for name in {frame.name, image.as_posix(), image.name, image.stem, image.with_suffix("").as_posix()}:
            known[name] = None if name in known and known[name] != frame else frame  # None: of several frames
    chosen, unknown = [], []
    for line in lines:
        found = known.get(line) or known.get(line.strip("/")) or known.get(Path(line).name)
        chosen.append(found) if found else unknown.append(line)
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of its {len(lines)} lines name no frame, or several; the first is {unknown[0]!r}, "
            f"frames are called as {frames[0].name!r}"
        )
    return sorted({frame.name: frame for frame in chosen if frame}.values(), key=lambda frame: frame.name)
