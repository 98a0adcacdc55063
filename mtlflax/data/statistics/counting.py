"""Read every frame of a source once, and count: pixels and frames of each class, depths, what is missing or broken."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mtlflax.data.samples import Checked
from mtlflax.data.source import Depth, Labels, Sample, Source
from mtlflax.errors import UserError

# The edges of the bins of depths, in metres or in a unit of their own: 25 bins for each factor of ten.
EDGES = np.logspace(-5, 5, 251)


@dataclasses.dataclass
class ClassCounts:
    """Of a label map with C classes."""

    pixels: np.ndarray  # int64 [C + 1], the last: without a class
    frames: np.ndarray  # int64 [C + 1], that have such a pixel
    shares: np.ndarray  # float64 [C + 1], of a frame's pixels, summed over the frames
    total: int = 0  # frames that have the map


@dataclasses.dataclass
class DepthCounts:
    """Of a depth."""

    pixels: int = 0
    measured: int = 0
    least: float = np.inf  # in its unit
    most: float = 0.0
    histogram: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(len(EDGES) - 1, np.int64))  # by EDGES
    in_metres: bool = False  # whether the histogram is, rather than in the unit
    per_frame: list[float] = dataclasses.field(default_factory=list)  # the measured share


@dataclasses.dataclass
class Counts:
    """Of a source."""

    frames: int
    sizes: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)  # (H, W) → frames
    classes: dict[str, ClassCounts] = dataclasses.field(default_factory=dict)
    depths: dict[str, DepthCounts] = dataclasses.field(default_factory=dict)
    lacking: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # field → frames without it
    broken: list[str] = dataclasses.field(default_factory=list)  # what is wrong, naming the frame or file


def count(source: Source, threads: int = 4, seen: Callable[[], object] = lambda: None) -> Counts:
    """Count a source's frames as they are given; `seen` is called after each, and one that cannot be read is listed."""
    counts = Counts(len(source))
    for name, sample, wrong in _read(source, threads):
        seen()
        if sample is None:
            counts.broken.append(wrong)
            continue
        height, width, _ = sample["image"].shape
        counts.sizes[height, width] = counts.sizes.get((height, width), 0) + 1
        for key, field in source.fields.items():
            if key not in sample:
                counts.lacking.setdefault(key, []).append(name)
            elif isinstance(field, Labels) and field.classes:
                _count_classes(counts.classes, key, field, sample[key])
            elif isinstance(field, Depth):
                focal_baseline = float(sample.get("focal_baseline", 0))
                _count_depth(counts.depths.setdefault(key, DepthCounts()), field, sample[key], focal_baseline)
    return counts


def _read(source: Source, threads: int) -> Iterator[tuple[str, Sample | None, str]]:
    """Each frame's name and its sample, or None and what is wrong with it; a few are read ahead."""

    def read(index: int) -> tuple[str, Sample | None, str]:
        try:
            sample = source[index]
            whole = Checked([sample], source.fields)[0]
        except (UserError, OSError, ValueError) as error:
            return source.names[index], None, str(error)
        return source.names[index], {key: value for key, value in whole.items() if key in sample}, ""

    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead = 4 * max(1, threads)
        for start in range(0, len(source), ahead):
            yield from pool.map(read, range(start, min(start + ahead, len(source))))


def _count_classes(classes: dict[str, ClassCounts], key: str, field: Labels, values: np.ndarray) -> None:
    count = len(field.classes)
    if key not in classes:
        pixels, frames = (np.zeros(count + 1, np.int64) for _ in range(2))
        classes[key] = ClassCounts(pixels, frames, np.zeros(count + 1))
    pixels = np.bincount(np.where(values == field.ignore, count, values).ravel(), minlength=count + 1)
    of_field = classes[key]
    of_field.total += 1
    of_field.pixels += pixels
    of_field.frames += pixels > 0
    of_field.shares += pixels / values.size


def _count_depth(counts: DepthCounts, field: Depth, values: np.ndarray, focal_baseline: float) -> None:
    measured = values[field.measured(values)]
    counts.pixels += values.size
    counts.measured += measured.size
    counts.per_frame.append(measured.size / values.size)
    if not measured.size:
        return
    counts.least = min(counts.least, float(measured.min()))
    counts.most = max(counts.most, float(measured.max()))
    counts.in_metres = not field.unit.stereo or focal_baseline > 0
    if counts.in_metres:
        measured = field.unit.to_metres(measured.astype(np.float32), np.float32(focal_baseline))
    finite = measured[np.isfinite(measured)]
    counts.histogram += np.histogram(np.clip(finite, EDGES[0], EDGES[-1]), EDGES)[0]


def quantiles(histogram: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    """Return the depths below which these shares of a histogram lie, to the upper edge of their bin."""
    cumulated = np.cumsum(histogram)
    places = np.searchsorted(cumulated, np.array(shares) * cumulated[-1])
    return [float(EDGES[min(place, len(EDGES) - 2) + 1]) for place in places]
