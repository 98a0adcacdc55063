"""Counts as lines for the terminal."""

from collections.abc import Mapping

from mtlflax.data.source import Depth, Field, Labels
from mtlflax.data.statistics.counting import Counts, DepthCounts, quantiles


def describe(split: str, counts: Counts, fields: Mapping[str, Field]) -> list[str]:
    """Return lines about a split: its size, its classes, its depths, what is missing, and what is broken."""
    lines = [f"{split}: {counts.frames} frames, {counts.frames - len(counts.broken)} of them whole"]
    if counts.sizes:
        sizes = sorted(counts.sizes.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{h}×{w} ({count})" for (h, w), count in sizes[:4])
        lines.append(f"  size: {shown}{f' and {len(sizes) - 4} more' if len(sizes) > 4 else ''}")
    for key, of_field in counts.classes.items():
        field = fields[key]
        assert isinstance(field, Labels)
        total = max(1, int(of_field.pixels.sum()))
        lines.append(
            f"  {key}: {len(field.classes)} classes; {of_field.pixels[-1] / total:.1%} of the pixels have none"
        )
        for number, of_class in enumerate(field.classes):
            share, frames = of_field.pixels[number] / total, int(of_field.frames[number])
            lines.append(f"    {number:3} {of_class.name:<20} {share:7.2%} of the pixels, in {frames} frames")
    for key, depth in counts.depths.items():
        field = fields[key]
        assert isinstance(field, Depth)
        lines.append(f"  {key}: {_range(depth, field)}")
    for key, names in counts.lacking.items():
        lines.append(f"  {len(names)} frames have no {key}: {some(names)}")
    return lines + [f"  BROKEN {text}" for text in counts.broken]


def some(names: list[str]) -> str:
    """Return the first few of some names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _range(depth: DepthCounts, field: Depth) -> str:
    if not depth.measured:
        return "NO pixel has a measurement: are its unit and its valid range right?"
    unit = "metres" if depth.in_metres else field.unit.name
    low, middle, high = quantiles(depth.histogram, (0.01, 0.5, 0.99))
    return (
        f"{depth.measured / depth.pixels:.1%} of the pixels are measured, {depth.least:.4g} to {depth.most:.4g} "
        f"{field.unit.name}; half of them are below {middle:.3g} {unit}, and 98 % lie in {low:.3g} to {high:.3g}"
    )
