"""A part of the training frames that is kept for choosing epochs and options, so that nothing is chosen on `val`."""

import hashlib
from collections.abc import Sequence
from typing import Any

from mtlflax.data.full_truth import with_full_truth
from mtlflax.data.source import Sample, Source
from mtlflax.data.wrapped import Wrapped


class Part(Wrapped):
    """Some frames of another source, in its order."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        super().__init__(source)
        self._indices = tuple(indices)

    @property
    def names(self) -> Sequence[str]:
        """Of the frames, in order."""
        return [self._source.names[i] for i in self._indices]

    def with_full_truth(self) -> "Part | None":
        """The same part of the whole with its truth at its own size, if the whole has that."""
        whole = with_full_truth(self._source)
        return Part(whole, self._indices) if whole else None

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int, /) -> Sample | Any:
        return self._source[self._indices[index]]


def split(source: Source, share: float) -> tuple[Part, Part]:
    """Split a source into the frames that stay for training and those that are held out, a share of them in 0..1.

    Which frames they are depends on their names alone: the same in every run, on every machine, whatever the seed.
    ValueError if one part would be empty.
    """
    names = list(source.names)
    count = round(share * len(names))
    if not 0 < count < len(names):
        raise ValueError(f"data.holdout is {share:g}: of {len(names)} training frames that leaves one part empty")
    digests = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    drawn = sorted(range(len(names)), key=digests.__getitem__)
    held = set(drawn[:count])
    return Part(source, [i for i in range(len(names)) if i not in held]), Part(source, sorted(held))
