"""Several data sets in one: each batch has a fixed number of frames of each, which may differ in what is known of them.

    config.data.name = "mixture"
    config.data.mixture = ConfigDict({
        "cityscapes": {"name": "cityscapes", "per_batch": 6},
        "mine": {"name": "folder", "root": "photos", "folder": {...}, "per_batch": 2},
    })

Each entry holds the keys of `config.data` in which that data set differs. Fields that several of them have must be the
same: the classes, the unit. Frames lack the fields of the others, so their tasks learn nothing from them.
"""

import bisect
import dataclasses
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mtlflax.data import field_json
from mtlflax.data.source import Field, Image, Sample, Source
from mtlflax.errors import UserError


class Mixture:
    """The frames of several sources, one source behind the other: a `Source`.

    Names are `{source}/{name}`. In training, global batch k takes, of each source with n frames a batch, the frames k·n
    to (k + 1)·n − 1 of that source's own sequence (`mtlflax.data.loader`).
    """

    def __init__(self, parts: Mapping[str, Source], per_batch: Mapping[str, int] | None = None) -> None:
        """Join sources; `per_batch` is the number of frames of each in a batch, for training.

        UserError if a field is not the same in all that have it.
        """
        self.parts = dict(parts)
        self.per_batch = {name: per_batch[name] for name in parts} if per_batch else {}
        self._starts = [0, *itertools.accumulate(len(part) for part in parts.values())]
        self.fields: dict[str, Field] = {}
        of: dict[str, str] = {}
        for name, part in parts.items():
            for key, field in part.fields.items():
                first = self.fields.setdefault(key, field)
                of.setdefault(key, name)
                if isinstance(field, Image) and isinstance(first, Image) and field.aspect != first.aspect:
                    # No one shape of pictures is that of all.
                    self.fields[key] = first = dataclasses.replace(first, aspect=None)
                    field = dataclasses.replace(field, aspect=None)
                if field_json.to_json({key: field}) != field_json.to_json({key: first}):
                    raise UserError(
                        f"data.mixture: the field {key!r} of {name} is not that of {of[key]}: give both the same "
                        "classes, unit and dtype, or one of them another name"
                    )

    @property
    def names(self) -> Sequence[str]:
        """Of all frames, in order."""
        return [f"{name}/{frame}" for name, part in self.parts.items() for frame in part.names]

    def prepare(self) -> None:
        """What the sources do once, before the first sample is read."""
        for part in self.parts.values():
            if prepare := getattr(part, "prepare", None):
                prepare()

    def split(self, divide: Callable[[Source], tuple[Source, Source]]) -> tuple["Mixture", "Mixture"]:
        """Divide each source into two, and return the mixtures of the first and of the second halves."""
        halves = {name: divide(part) for name, part in self.parts.items()}
        first, second = ({name: pair[i] for name, pair in halves.items()} for i in (0, 1))
        return Mixture(first, self.per_batch), Mixture(second)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        number = bisect.bisect_right(self._starts, index) - 1
        name, part = list(self.parts.items())[number]
        sample = part[index - self._starts[number]]
        return {**sample, "name": f"{name}/{sample['name']}"}


class Proportions:
    """Which source, and which frame of its own sequence, is at a position of the mixture's sequence.

    For `grain.MapDataset.select_from_datasets`.
    """

    def __init__(self, per_batch: Sequence[int]) -> None:
        self._counts = list(per_batch)
        # The sources take turns within a batch: devices and processes take slices of it, and each gets its share.
        turns = [((rank + 0.5) / n, source, rank) for source, n in enumerate(per_batch) for rank in range(n)]
        self._slots = [(source, rank) for _, source, rank in sorted(turns)]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[int, int]:
        batch, slot = divmod(index, len(self._slots))
        source, rank = self._slots[slot]
        return source, batch * self._counts[source] + rank


def open_mixture(
    config: Any,
    open_both: Callable[[Any], tuple[Source, Source]],
    resolve: Callable[[str, str], tuple[str, str | None]],
) -> tuple[Mixture, Mixture]:
    """Open all data sets of `config.mixture`.

    `open_both` opens the training and the validation frames of one, and `resolve` decides which it is, as in
    `mtlflax.data`.

    Raises:
        UserError: a data set is not there, or fields differ.
        ValueError: no entry, or one without a positive `per_batch`.
    """
    entries = config.get("mixture")
    if not entries:
        raise ValueError("data.name is mixture, but data.mixture is empty: name data sets there")
    if config.get("cache"):
        raise ValueError("data.cache is for one data set: give it in the entries of data.mixture")
    training, validation, per_batch = {}, {}, {}
    for name, entry in entries.items():
        options = entry.to_dict()
        count = options.pop("per_batch", 0)
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"data.mixture.{name}.per_batch is {count!r}: give the number of its frames in a batch")
        own = ConfigDict(config.to_dict() | {"name": name, "root": "", "mixture": {}, "cache": ""} | options)
        try:
            own.name, root = resolve(own.name, own.root)
            own.root = root or ""
            training[name], validation[name] = open_both(own)
        except (UserError, ValueError) as error:
            raise UserError(f"data.mixture.{name}: {error}") from error
        per_batch[name] = count
    return Mixture(training, per_batch), Mixture(validation)
