"""Weights for a loss, so that rare classes count: from how often each class occurs."""

from collections.abc import Callable, Mapping

import numpy as np

from mtlflax.data.statistics.counting import ClassCounts


def enet(counts: ClassCounts) -> np.ndarray:
    """Return 1 / ln(1.02 + p) of each class, with p its share of all labeled pixels (Paszke et al. 2016, section 5.2).

    Of C classes: float64 [C], from 1.4 (all pixels) to 50 (none).
    """
    pixels = counts.pixels[:-1]
    return 1 / np.log(1.02 + pixels / max(1, pixels.sum()))


def median_frequency(counts: ClassCounts) -> np.ndarray:
    """Return median(f) / f of each class, with f its mean share of a frame (Eigen and Fergus 2015, section 6.3.2).

    The mean is over the frames in which the class occurs, and the median over the classes that occur; a class that does
    not has weight 0.
    """
    frames = counts.frames[:-1]
    frequency = counts.shares[:-1] / np.maximum(frames, 1)
    there = frames > 0
    median = np.median(frequency[there]) if there.any() else 0.0
    return np.where(there, median / np.where(there, frequency, 1), 0)


WEIGHTS: Mapping[str, Callable[[ClassCounts], np.ndarray]] = {"enet": enet, "median_frequency": median_frequency}
