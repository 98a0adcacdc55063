"""What sources that stand around another one have in common."""

from collections.abc import Mapping, Sequence

from mtlflax.data.source import Field, Sample, Source


class Wrapped:
    """A source that gives another one's frames; subclasses change what they change."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def fields(self) -> Mapping[str, Field]:
        """Those of the source."""
        return self._source.fields

    @property
    def missing(self) -> Mapping[str, str]:
        """Why the source lacks some fields, if it says so."""
        return getattr(self._source, "missing", {})

    @property
    def identity(self) -> str:
        """What the source's samples depend on besides its fields and files, see `data.describe`."""
        return getattr(self._source, "identity", "")

    @property
    def names(self) -> Sequence[str]:
        """Of the frames, in order."""
        return self._source.names

    def prepare(self) -> None:
        """What the source does once, before the first sample is read."""
        if prepare := getattr(self._source, "prepare", None):
            prepare()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int, /) -> Sample:
        return self._source[index]
