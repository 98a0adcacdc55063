"""Ground truth at its own size beside images at `data.size`: what evaluation at full size reads."""

from collections.abc import Mapping

import numpy as np

from mtlflax.data.samples import Readable
from mtlflax.data.source import Field, Image, Source


def with_full_truth(source: Source) -> Source | None:
    """Return the same frames with their truth at its own size, or None if the source has it at `data.size` alone."""
    method = getattr(source, "with_full_truth", None)
    return method() if method else None


def truth_size(source: Readable, fields: Mapping[str, Field]) -> tuple[int, int]:
    """Return (H, W) of the first truth among the fields that a frame holds, as one frame after the other is read.

    ValueError if none of them has a truth with pixels.
    """
    truths = [name for name, field in fields.items() if field.spatial and not isinstance(field, Image)]
    for i in range(len(source)):
        sample = source[i]
        for name in truths:
            if name in sample:
                height, width = np.shape(sample[name])[:2]
                return height, width
    raise ValueError(f"no frame has a value at each pixel in {' or '.join(truths) or 'any field'}")
