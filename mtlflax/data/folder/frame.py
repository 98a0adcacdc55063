"""A frame of a data set in folders, and the share of frames that is for validation."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Frame(NamedTuple):
    """A frame's name, and its files: "image" and those of the fields that it has."""

    name: str
    files: Mapping[str, Path]
    numbers: Mapping[str, float] = {}  # of a list: columns that hold numbers


def share(frames: Sequence[Frame], split: str, val_share: float) -> list[Frame]:
    """Return the frames of "val", a share of all of them, at least one, or the rest; by their names alone."""
    if not 0 < val_share < 1:
        raise ValueError(f"data.folder.val_share is {val_share:g}: give a share between 0 and 1")
    count = min(max(1, round(val_share * len(frames))), len(frames) - 1)
    drawn = sorted(frames, key=lambda frame: hashlib.sha256(frame.name.encode("utf-8", "surrogateescape")).digest())
    held = {frame.name for frame in drawn[:count]}
    return [frame for frame in frames if (frame.name in held) == (split == "val")]
