"""What is in the files of a data set in folders, before anyone trains on it."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mtlflax.data.folder.source import Folder
from mtlflax.data.samples import Checked
from mtlflax.data.source import Depth, Labels, Sample
from mtlflax.errors import UserError


@dataclasses.dataclass
class Findings:
    """Of one split."""

    frames: int
    unused: dict[str, list[str]]  # field → files that belong to no image
    lacking: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # field → frames without it
    broken: list[str] = dataclasses.field(default_factory=list)  # what is wrong, naming the file
    sizes: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)  # (H, W) → frames
    pixels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # labels → of each class, and without one
    within: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # labels → frames with each class
    depths: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)  # depth → see `_depth`


def look(source: Folder, threads: int, seen: Callable[[], object] = lambda: None) -> Findings:
    """Read all frames of a split; `seen` is called after each."""
    found = Findings(len(source), {name: paths for name, paths in source.unused.items() if paths})
    truths = [name for name, field in source.fields.items() if isinstance(field, Labels | Depth)]
    for name, sample, wrong in _read(source, threads):
        seen()
        if sample is None:
            found.broken.append(wrong)
            continue
        height, width, _ = sample["image"].shape
        found.sizes[height, width] = found.sizes.get((height, width), 0) + 1
        for key in truths:
            if key not in sample:
                found.lacking.setdefault(key, []).append(name)
            elif isinstance(field := source.fields[key], Labels):
                _labels(found, key, field, sample[key])
            elif isinstance(field, Depth):
                found.depths.setdefault(key, []).append(_depth(field, sample[key]))
    return found


def describe(split: str, found: Findings, source: Folder) -> list[str]:
    """Return lines for the terminal."""
    lines = [f"{split}: {found.frames} frames, {found.frames - len(found.broken)} of them whole"]
    if found.sizes:
        sizes = sorted(found.sizes.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{h}×{w} ({count})" for (h, w), count in sizes[:4])
        lines.append(f"  size: {shown}{f' and {len(sizes) - 4} more' if len(sizes) > 4 else ''}")
    for key, pixels in found.pixels.items():
        field = source.fields[key]
        assert isinstance(field, Labels)
        total = max(1, int(pixels.sum()))
        lines.append(f"  {key}: {len(field.classes)} classes; {pixels[-1] / total:.1%} of the pixels have none")
        for number, of_class in enumerate(field.classes):
            share, frames = pixels[number] / total, int(found.within[key][number])
            lines.append(f"    {number:3} {of_class.name:<20} {share:7.2%} of the pixels, in {frames} frames")
    for key, rows in found.depths.items():
        field = source.fields[key]
        assert isinstance(field, Depth)
        lines.append(f"  {key}: {_range(np.array(rows), field)}")
    for key, names in found.lacking.items():
        lines.append(f"  {len(names)} frames have no {key}: {_some(names)}")
    for key, paths in found.unused.items():
        lines.append(f"  {len(paths)} files of {key} belong to no image: {_some(paths)}")
    return lines + [f"  BROKEN {text}" for text in found.broken]


def _read(source: Folder, threads: int) -> Iterator[tuple[str, Sample | None, str]]:
    """Each frame's name and sample, or None and what is wrong with it; a few are read ahead."""
    checked = Checked(source, source.fields)

    def read(index: int) -> tuple[str, Sample | None, str]:
        name = source.names[index]
        try:
            whole = checked[index]
        except UserError as error:
            return name, None, str(error)
        there = ("image", *source.frames[index].files)
        return name, {key: whole[key] for key in there}, ""

    with ThreadPoolExecutor(threads) as pool:
        ahead = 4 * threads
        for start in range(0, len(source), ahead):
            yield from pool.map(read, range(start, min(start + ahead, len(source))))


def _labels(found: Findings, key: str, field: Labels, values: np.ndarray) -> None:
    count = len(field.classes)
    of_frame = np.bincount(np.where(values == field.ignore, count, values).ravel(), minlength=count + 1)
    found.pixels[key] = found.pixels.get(key, 0) + of_frame
    found.within[key] = found.within.get(key, 0) + (of_frame > 0)


def _depth(field: Depth, values: np.ndarray) -> np.ndarray:
    """The number of pixels, and of measurements, and their least, 1 %, median, 99 % and largest value."""
    measured = values[field.measured(values)]
    spread: Any = np.quantile(measured, (0, 0.01, 0.5, 0.99, 1)) if measured.size else np.full(5, np.nan)
    return np.array([values.size, measured.size, *spread])


def _range(rows: np.ndarray, field: Depth) -> str:
    pixels, measured = rows[:, :2].sum(axis=0)
    if not measured:
        return "NO pixel has a measurement: see `unknown`, `scale`, `least` and `most`"
    spread = rows[rows[:, 1] > 0, 2:]
    least, most = spread[:, 0].min(), spread[:, -1].max()
    low, middle, high = np.median(spread[:, 1:4], axis=0)
    return (
        f"{measured / pixels:.1%} of the pixels are measured, {least:.4g} to {most:.4g} {field.unit.name}; in a "
        f"typical frame 98 % lie in {low:.4g} to {high:.4g}, half below {middle:.4g}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
