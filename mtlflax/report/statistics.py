"""How much better a run is than another: Δm and Δp against baselines, and bootstrap intervals over frames."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from mtlflax.run.frames import Frames

# A task's `metrics`: sums → name → value.
Metrics = Callable[[Mapping[str, np.ndarray]], Mapping[str, float]]


class Spread(NamedTuple):
    """A mean over seeds, and the sample standard deviation: NaN for one seed."""

    mean: float
    deviation: float
    seeds: int = 1

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return self.deviation / self.seeds**0.5


def spread(values: Sequence[float]) -> Spread:
    """Return the mean and the deviation of one value per seed."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return Spread(float(np.mean(values)), float(deviation), len(values))


def seed_noise(ours: Spread, theirs: Spread, level: float = 0.95) -> float:
    """Return how far apart two means may be by the choice of seeds alone: half of Welch's interval of the difference.

    NaN if one of them has a single seed.
    """
    errors = np.array([ours.error, theirs.error]) ** 2
    if np.isnan(errors).any():
        return float("nan")
    if not errors.any():
        return 0.0
    freedom = errors.sum() ** 2 / np.sum(errors**2 / np.array([ours.seeds - 1, theirs.seeds - 1]))
    return float(stdtrit(freedom, (1 + level) / 2) * np.sqrt(errors.sum()))


def relative(value: float, baseline: float, minimized: bool) -> float:
    """Return by how many percent a value is better than the baseline; negative if it is worse."""
    change = 100 * (value - baseline) / abs(baseline)
    return -change if minimized else change


def delta_m(gains: Mapping[str, Mapping[str, float]]) -> float:
    """Return Δm in percent: the mean over all metrics of how much worse they are. Lower is better, 0 is the baseline.

    `gains` is task → metric → what `relative` gives. As in Liu et al. 2019 and Navon et al. 2022 (MTAN, Nash-MTL).
    """
    return -float(np.mean([gain for of_task in gains.values() for gain in of_task.values()]))


def delta_p(gains: Mapping[str, Mapping[str, float]]) -> float:
    """Return Δp in percent: the mean over tasks of the mean of how much better their metrics are. Higher is better.

    `gains` is as in `delta_m`. As in Maninis et al. 2019 and Lin et al. 2023 (LibMTL, DB-MTL).
    """
    return float(np.mean([np.mean(list(of_task.values())) for of_task in gains.values()]))


def draw(num_frames: int, resamples: int, seed: int = 0) -> np.ndarray:
    """Draw sets of frames with replacement: how often each is in each set, integers [resamples, num_frames]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_frames, np.full(num_frames, 1 / num_frames), size=resamples)


def resampled(frames: Frames, task: str, metrics: Metrics, times: np.ndarray) -> dict[str, np.ndarray]:
    """Return a task's metrics on sets of frames from `draw`: name → [resamples], NaN where a set gives no value."""
    counts = times.astype(np.float64)
    totals = {key: np.tensordot(counts, x.astype(np.float64), 1) for key, x in frames.sums[task].items()}
    integers = {key for key, x in frames.sums[task].items() if np.issubdtype(x.dtype, np.integer)}
    results: dict[str, np.ndarray] = {}
    for i in range(len(times)):
        one = {key: x[i].astype(np.int64) if key in integers else x[i] for key, x in totals.items()}
        for name, value in metrics(one).items():
            results.setdefault(name, np.full(len(times), np.nan))[i] = value
    return results


def interval(differences: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrapped differences: NaN if no set gave one.

    Both runs of a difference must have been scored on the same sets, so that what all runs find hard cancels.
    """
    known = differences[~np.isnan(differences)]
    if not known.size:
        return (np.nan, np.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
