"""Δm and Δp against published tables; bootstrap intervals against closed forms and a permutation test."""

import numpy as np
import pytest

from mtlflax import metrics
from mtlflax.report import statistics
from mtlflax.run.frames import Frames

# Navon et al. 2022, table 3 (mIoU, PixAcc, AErr, RErr, Δm %), against the first row.
NASH = {
    "single": (74.01, 93.16, 0.0125, 27.77, None),
    "equal": (75.18, 93.49, 0.0155, 46.77, 22.60),
    "dwa": (75.24, 93.52, 0.0160, 44.37, 21.45),
    "uw": (72.02, 92.85, 0.0140, 30.13, 5.89),
    "mgda": (68.84, 91.54, 0.0309, 33.50, 44.14),
    "pcgrad": (75.13, 93.48, 0.0154, 42.07, 18.29),
    "nash_mtl": (75.41, 93.66, 0.0129, 35.02, 6.82),
}
# Lin et al. 2023 (DB-MTL), table 2: the same metrics and Δp %.
DB_MTL = {
    "single": (69.06, 91.54, 0.01282, 43.53, 0.0),
    "equal": (68.93, 91.58, 0.01315, 45.90, -2.05),
    "gls": (68.69, 91.45, 0.01280, 44.13, -0.39),
    "dwa": (68.97, 91.58, 0.01350, 45.10, -2.24),
    "db_mtl": (69.17, 91.56, 0.01280, 43.46, 0.20),
}


def test_the_noise_of_seeds_is_welchs():
    """Against SciPy's own interval; more than twice the standard error, for a few seeds."""
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 3), rng.normal(1, 3, 4)
    noise = statistics.seed_noise(statistics.spread(a), statistics.spread(b))
    interval = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert noise == pytest.approx((interval.high - interval.low) / 2)
    assert np.isnan(statistics.seed_noise(statistics.spread([1.0]), statistics.spread(b)))
    assert statistics.seed_noise(statistics.spread([1.0, 1.0]), statistics.spread([2.0, 2.0])) == 0


def gains(row, baseline):
    better = [statistics.relative(a, b, i >= 2) for i, (a, b) in enumerate(zip(row[:4], baseline[:4], strict=True))]
    return {
        "segmentation": {"miou": better[0], "pixel_accuracy": better[1]},
        "depth": {"abs_err": better[2], "rel_err": better[3]},
    }


@pytest.mark.parametrize("name", [name for name in NASH if name != "single"])
def test_delta_m_is_that_of_the_published_table(name):
    """To what the rounding of the table leaves: AErr has three digits."""
    got = statistics.delta_m(gains(NASH[name], NASH["single"]))
    assert got == pytest.approx(NASH[name][4], abs=0.35 if name != "mgda" else 0.7)


@pytest.mark.parametrize("name", DB_MTL)
def test_delta_p_is_that_of_the_published_table(name):
    got = statistics.delta_p(gains(DB_MTL[name], DB_MTL["single"]))
    assert got == pytest.approx(DB_MTL[name][4], abs=0.1)


def test_the_two_conventions_differ_where_tasks_have_different_numbers_of_metrics():
    mixed = {"a": {"x": 10.0}, "b": {"x": -2.0, "y": -2.0, "z": -2.0}}
    assert statistics.delta_m(mixed) == pytest.approx(-(10 - 6) / 4)
    assert statistics.delta_p(mixed) == pytest.approx((10 - 2) / 2)


def test_spread():
    spread = statistics.spread([1.0, 2.0, 6.0])
    assert spread == (3.0, pytest.approx(np.sqrt(7)), 3)
    assert spread.error == pytest.approx(np.sqrt(7 / 3))
    assert statistics.spread([4.0]).mean == 4
    assert np.isnan(statistics.spread([4.0]).error)


def errors(values):
    """Frames of one task, whose metric is the mean over frames of a number."""
    sums = {"sum": np.asarray(values, np.float64), "count": np.ones(len(values), np.int64)}
    return Frames(tuple(map(str, range(len(values)))), {"task": sums})


def mean_error(totals):
    return {"error": float(totals["sum"] / totals["count"])}


def bootstrap(a, b, resamples=4000, level=0.95):
    times = statistics.draw(len(a), resamples)
    ours, theirs = (statistics.resampled(errors(x), "task", mean_error, times)["error"] for x in (a, b))
    return statistics.interval(ours - theirs, level)


def test_the_interval_of_a_mean_difference_is_the_normal_one():
    """Of means the bootstrap's deviation is known: that of the paired differences over √n."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=400)
    b = a + rng.normal(0.05, 0.2, size=400)  # what both find hard cancels
    differences = a - b
    sigma = differences.std() / np.sqrt(len(a))
    low, high = bootstrap(a, b)
    assert low == pytest.approx(differences.mean() - 1.96 * sigma, abs=0.15 * sigma)
    assert high == pytest.approx(differences.mean() + 1.96 * sigma, abs=0.15 * sigma)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.04, 0.08])
def test_the_interval_agrees_with_a_permutation_test(shift):
    """Signs of paired differences exchanged at random: p is below 5 % where the interval leaves 0 out."""
    rng = np.random.default_rng(3)
    a = rng.gamma(2.0, size=300)
    b = a + rng.normal(shift, 0.25, size=300)
    differences = a - b
    signs = rng.choice([-1.0, 1.0], size=(4000, 300))
    p = np.mean(np.abs(signs @ differences) >= abs(differences.sum()))
    low, high = bootstrap(a, b)
    if not 0.03 < p < 0.08:
        assert (not low <= 0 <= high) == (p < 0.05)


def test_pooled_metrics_are_resampled_as_they_are_pooled():
    """A confusion matrix is added up before it becomes an mIoU: not a mean of the frames' mIoUs."""
    rng = np.random.default_rng(1)
    confusion = rng.integers(0, 50, (6, 3, 3)) + 40 * np.eye(3, dtype=np.int64)
    frames = Frames(tuple("abcdef"), {"segmentation": {"confusion": confusion}})
    times = statistics.draw(6, 5, seed=2)
    assert (times.sum(axis=1) == 6).all()
    got = statistics.resampled(frames, "segmentation", lambda sums: {"miou": metrics.miou(sums["confusion"])}, times)
    for i, counts in enumerate(times):
        drawn = np.repeat(np.arange(6), counts)
        assert got["miou"][i] == pytest.approx(metrics.miou(confusion[drawn].sum(axis=0)), rel=1e-12)


def test_sets_without_a_value_are_left_out():
    assert statistics.interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert all(np.isnan(statistics.interval(np.array([np.nan]))))
