"""Frames with rare classes more often: the order of training frames for `config.data.balance`.

Rare class sampling of Hoyer et al. 2022 (DAFormer, arXiv 2111.14887, equation 4): at each position a class c is drawn
with probability ∝ exp((1 − f_c) / T), where f_c is its share of all labeled pixels and T the temperature, and then one
of the frames that have it. The lower T, the more often come frames with rare classes; 0.01 is the paper's. Frames in
which nothing is labeled come as often as they would without it: they may have other ground truth.
"""

import hashlib
import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mtlflax.data import field_json
from mtlflax.data.samples import Readable
from mtlflax.data.source import Labels, Source
from mtlflax.data.wrapped import Wrapped
from mtlflax.errors import UserError
from mtlflax.files import write_bytes


class Balanced(Wrapped):
    """A source whose frames are trained on in another order: a `Source`.

    `prepare` reads all frames once and keeps what classes they have below `$MTLFLAX_CACHE`.
    """

    def __init__(
        self, source: Source, temperature: float, *, identity: str = "", threads: int = 4, on_error: str = "raise"
    ) -> None:
        """`identity` tells the source from others with frames of the same names.

        UserError if the source has no label map; ValueError for a temperature that is not positive.
        """
        if not 0 < temperature < float("inf"):
            raise ValueError(f"data.balance is {temperature}: give a positive temperature (0.01), or 0 for none")
        maps = [name for name, field in source.fields.items() if isinstance(field, Labels) and field.classes]
        if not maps:
            raise UserError("data.balance needs labels, and the data set has none: give 0")
        super().__init__(source)
        self._temperature, self._threads = temperature, threads
        self._on_error, self._map, self._identity = on_error, maps[0], identity
        self._pixels: np.ndarray | None = None  # int64 [N, C]

    def prepare(self) -> None:
        """Prepare the source, and count the pixels of each class in each frame, unless that has been done before."""
        super().prepare()
        if self._pixels is None:
            self._pixels = self._counted()

    def order(self, seed: int) -> "ByClass":
        """Return the order of training, for a seed."""
        self.prepare()
        assert self._pixels is not None
        return ByClass(self._pixels, self._temperature, seed)

    def _counted(self) -> np.ndarray:
        field = self._source.fields[self._map]
        assert isinstance(field, Labels)
        key = [field_json.to_json({self._map: field}), list(self._source.names), self._identity, self.identity]
        base = Path(os.environ.get("MTLFLAX_CACHE") or Path.home() / ".cache" / "mtlflax").expanduser()
        path = base / "classes" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.npy"
        try:
            stored = np.load(path, allow_pickle=False)
            if stored.shape == (len(self), len(field.classes)):
                return stored
        except (OSError, ValueError, EOFError):
            pass
        print(f"data.balance: looking for the classes in {len(self)} frames", file=sys.stderr, flush=True)
        readable = Readable(self._source, self._on_error)
        count = len(field.classes)
        skipped: list[int] = []

        def pixels(index: int) -> np.ndarray:
            sample = readable.get(index)
            if sample is None:
                skipped.append(index)
            if sample is None or self._map not in sample:
                return np.zeros(count, np.int64)
            labels = sample[self._map]
            return np.bincount(labels[labels != field.ignore].ravel(), minlength=count)[:count]

        with ThreadPoolExecutor(max(1, self._threads)) as pool:
            counted = np.stack(list(pool.map(pixels, range(len(self))))).astype(np.int64)
        if counted.any() and not skipped:  # else all are counted again, once they can be read
            buffer = io.BytesIO()
            np.save(buffer, counted)
            write_bytes(path, buffer.getvalue())
        return counted


class ByClass:
    """Which frame is at a position of the sequence: for `grain.MapDataset.select_from_datasets`."""

    def __init__(self, pixels: np.ndarray, temperature: float, seed: int) -> None:
        """`pixels` is [N, C], of each class in each frame; UserError if no frame has a class."""
        present = np.flatnonzero(pixels.sum(axis=0))
        if not present.size:
            raise UserError("data.balance: no frame has a label: give 0, or look at the labels")
        shares = pixels.sum(axis=0)[present] / pixels.sum()
        logits = (1 - shares) / temperature
        weights = np.exp(logits - logits.max())
        unlabeled = np.flatnonzero(pixels.sum(axis=1) == 0)
        labeled = 1 - len(unlabeled) / len(pixels)
        self._seed, self._bounds = seed, np.cumsum(labeled * weights / weights.sum())
        self._frames = [np.flatnonzero(pixels[:, c]) for c in present] + ([unlabeled] if len(unlabeled) else [])

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[int, int]:
        of_class, of_frame = np.random.default_rng((self._seed, index)).random(2)
        frames = self._frames[min(int(np.searchsorted(self._bounds, of_class, side="right")), len(self._frames) - 1)]
        return 0, int(frames[int(of_frame * len(frames))])
