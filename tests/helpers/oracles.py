"""The gradient balancings that optimise something, once more in float64 NumPy, from their definitions.

The quadratic ones are solved by trying every set of tasks that may have weight; each answer is checked against the
conditions of optimality here, so that the oracle cannot be wrong quietly. All take J [K, n] and return a direction [n].
"""

import itertools

import numpy as np


def subsets(num_tasks):
    for size in range(1, num_tasks + 1):
        yield from map(list, itertools.combinations(range(num_tasks), size))


def mgda(J):
    """The shortest convex combination: on its support all g_k·d are equal."""
    lengths = np.linalg.norm(J, axis=1)
    best = None
    for chosen in subsets(len(J)):
        unit = J[chosen] / lengths[chosen][:, None]
        a = np.linalg.solve(unit @ unit.T, lengths.min() / lengths[chosen]) / lengths[chosen]
        if (a >= 0).all():
            d = a @ J[chosen] / a.sum()
            if best is None or np.linalg.norm(d) < np.linalg.norm(best):
                best = d
    assert (J @ best >= best @ best - 1e-9 * lengths * np.linalg.norm(best)).all()
    return best


def _projected(J, Q, u):
    """Jᵀv for v = argmin vᵀQv over v ≥ u: where v > u, (Qv)_k = 0."""
    best = None
    for free in [[], *subsets(len(J))]:
        bound = [k for k in range(len(J)) if k not in free]
        v = u.astype(float).copy()
        if free:
            v[free] = np.linalg.solve(Q[np.ix_(free, free)], -Q[np.ix_(free, bound)] @ u[bound])
        if (v >= u - 1e-13).all() and (best is None or v @ Q @ v < best @ Q @ best):
            best = v
    assert (Q @ best >= -1e-12).all()
    return best @ J


def _regularized(J, regularization):
    G = J @ J.T
    return G / np.trace(G) + regularization * np.eye(len(J))


def dualproj(J, regularization=1e-4):
    return _projected(J, _regularized(J, regularization), np.full(len(J), 1 / len(J)))


def upgrad(J, regularization=1e-4):
    Q = _regularized(J, regularization)
    return np.mean([_projected(J, Q, u) for u in np.eye(len(J))], axis=0)


def cagrad(J, alpha=0.5):
    """The mean, and c along g_w: on the support of w all g_k·d are equal to t, which a quadratic gives."""
    mean = J.mean(axis=0)
    radius = alpha * np.linalg.norm(mean)
    best, least = None, np.inf
    for chosen in subsets(len(J)):
        part = J[chosen]
        G = part @ part.T
        ones, slopes = np.linalg.solve(G, np.ones(len(part))), np.linalg.solve(G, part @ mean)
        middle = slopes.sum() / ones.sum()
        under = middle**2 - (slopes @ (part @ mean) - radius**2) / ones.sum()
        for t in (middle + np.sqrt(max(under, 0)), middle - np.sqrt(max(under, 0))):
            w = t * ones - slopes
            if (w >= 0).all() and w.sum() > 0:
                along = w @ part / w.sum()
                value = along @ mean + radius * np.linalg.norm(along)
                if value < least:
                    best, least = mean + radius * along / np.linalg.norm(along), value
    # Weak duality: F(w) bounds min_k g_k·d from above for every w and d, so where they are equal both are optimal.
    assert (J @ best >= least - 1e-8 * np.linalg.norm(J, axis=1) * np.linalg.norm(best)).all()
    return best


def fairgrad(J, alpha=1.0):
    """x > 0 with G x = x^(−1/α), by Newton's method with backtracking on the convex function whose gradient it is."""
    G, power = J @ J.T, 1 - 1 / alpha
    x = np.diag(G) ** (-alpha / (1 + alpha))

    def value(x):
        return 0.5 * x @ G @ x - np.sum(np.log(x) if alpha == 1 else x**power / power)

    for _ in range(200):
        missing = x**power - x * (G @ x)
        if np.abs(missing / x**power).max() < 1e-12:
            break
        relative = np.linalg.solve(G * np.outer(x, x) + np.diag(x**power / alpha), missing)
        length, before = 1.0, value(x)
        while np.abs(relative).max() > 1e-3 and (  # nearer, full steps converge, and values differ by rounding only
            (1 + length * relative <= 0).any()
            or value(x * (1 + length * relative)) > before - 1e-4 * length * relative @ missing
        ):
            length /= 2
        x = x * (1 + length * relative)
    assert (np.abs(G @ x - x ** (-1 / alpha)) <= 1e-11 * (np.abs(G) @ x)).all()
    return x @ J


def nash_mtl(J):
    return fairgrad(J, 1.0)
