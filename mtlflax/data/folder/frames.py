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

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtlflax.data import paths
from mtlflax.data.folder import lists as text_lists
from mtlflax.data.folder.frame import Frame, share
from mtlflax.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".pgm", ".avif", ".jp2")
_TOKEN = re.compile(r"\{(\w+)\}|(\*\*/?|\*)")
_SPLIT = "{split}"


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
    splits = {name: value for name, value in splits.items() if value}
    lists = {name: str(value) for name, value in splits.items() if str(value).lower().endswith(".txt")}
    given = splits.get(split, split)
    folders = (given,) if isinstance(given, str) else tuple(given)
    by_folder = _SPLIT in image or any(_SPLIT in pattern for pattern, _ in fields.values())
    if by_folder and lists:
        raise ValueError("splits: give either text files, or {split} in the patterns")
    if splits and not by_folder and not lists:
        raise ValueError(f"data.folder.splits is {dict(splits)}, but no pattern has {{split}}, where it would stand")
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
        frames = text_lists.of_split(root, lists, split, frames) if lists else share(frames, split, val_share)
    return frames, unused


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
