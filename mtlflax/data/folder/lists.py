"""Frames, or the splits that they belong to, from lists in files."""

import csv
import difflib
import functools
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtlflax.data import paths
from mtlflax.data.folder.frame import Frame, share
from mtlflax.data.text_table import read_csv, read_text
from mtlflax.errors import UserError


def read_list(path: Path, root: Path, split: str, val_share: float, fields: Collection[str]) -> list[Frame]:
    """Return the frames of a split from a list: CSV with a header, or JSON, a list of objects.

    Its columns are "image" and the names of `fields`, with paths below the root, empty where a frame lacks the field;
    and perhaps "split" and "name"; others are ignored. Numbers (such as focal_baseline) stand there themselves. Without
    "split", `val_share` of the frames are "val". UserError for a list that cannot be read, names a file that is not
    there, has a column that is nearly called as a field, or says the splits of some frames only.
    """
    text = read_text(path)
    try:
        rows = json.loads(text) if path.suffix.lower() == ".json" else read_csv(text)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("it is no list of objects")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: is no list of frames: {error}") from error
    known = ("image", "split", "name", *fields)
    _check_columns(path, rows, known)
    frames, chosen = [], []
    listed = functools.cache(lambda folder: frozenset(paths.names(folder)))
    for number, row in enumerate(rows, 1):
        given = {str(key).strip(): value for key, value in row.items() if key and value not in (None, "")}
        given = {key: value for key, value in given.items() if key in known}
        if not given.get("image"):
            raise UserError(f"{path}, frame {number}: has no image: columns are image, fields, split, name")
        name = str(given.pop("name", "") or Path(str(given["image"])).with_suffix("").as_posix())
        of_split = str(given.pop("split", "")).strip().lower()
        files, numbers = {}, {}
        for key, value in given.items():
            try:
                if key == "image":
                    raise ValueError("a path, though it may look like a number")
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
    if any(chosen):
        if not all(chosen):
            raise UserError(
                f"{path}, frame {chosen.index('') + 1}: has no split, though others have: give train or val"
            )
        return sorted((f for f, s in zip(frames, chosen, strict=True) if s == split), key=lambda frame: frame.name)
    return share(sorted(frames, key=lambda frame: frame.name), split, val_share)


def _check_columns(path: Path, rows: Sequence[Mapping[str, Any]], known: Sequence[str]) -> None:
    """Raise UserError for a column that is ignored, but by a slip of the pen."""
    for column in dict.fromkeys(str(key).strip() for row in rows for key in row if key):
        close = difflib.get_close_matches(column.lower(), known, n=1, cutoff=0.75)
        if column not in known and close:
            raise UserError(f"{path}: the column {column!r} is no field: did you mean {close[0]!r}?")


def of_split(root: Path, lists: Mapping[str, str], split: str, frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames of a split that its text file names, sorted by name; `lists` is split → path below the root.

    Raises:
        UserError: a file cannot be read, names what is no frame, or shares a frame with that of another split.
        ValueError: the split has no file.
    """
    if split not in lists:
        raise ValueError(f"data.folder.splits has text files, but none for {split}")
    of_frame: dict[str, Frame | None] = {}
    for frame in frames:
        image = frame.files["image"].relative_to(root)
        for name in {frame.name, image.as_posix(), image.name, image.stem, image.with_suffix("").as_posix()}:
            of_frame[name] = None if name in of_frame and of_frame[name] != frame else frame  # None: of several frames
    chosen = {name: _chosen_by(root / path, of_frame, frames[0].name) for name, path in lists.items()}
    for other in lists.keys() - {split}:
        if both := sorted(chosen[split].keys() & chosen[other].keys()):
            raise UserError(f"{root / lists[split]} and {root / lists[other]} both have the frame {both[0]!r}")
    return sorted(chosen[split].values(), key=lambda frame: frame.name)


def _chosen_by(path: Path, of_frame: Mapping[str, Frame | None], example: str) -> dict[str, Frame]:
    """The frames that a text file names, one in each line, or, with more in a line, by its first word."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    chosen, unknown = {}, []
    for line in lines:
        words = dict.fromkeys((line, line.split()[0]))
        names = [name for word in words for name in (word, word.strip("/"), Path(word).name)]
        found = next((frame for name in names if (frame := of_frame.get(name))), None)
        if found is None:
            unknown.append(line)
        else:
            chosen[found.name] = found
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of its {len(lines)} lines name no frame, or several; the first is {unknown[0]!r}, "
            f"frames are called as {example!r}"
        )
    return chosen
