"""Gradient balancing once more, in NumPy and float64, from the papers and on whole gradients, to compare with.

A factory a method, `name(num_tasks, **options) -> step`; `step(J, **given) -> d` takes the task gradients [K, n] of the
next update and what the method looks at beside them, and keeps its own state.
"""

import itertools

import numpy as np


def pcgrad(num_tasks):
    def step(J, orders, **_):
        total = np.zeros(J.shape[1])
        for i in range(num_tasks):
            g = J[i].copy()
            for j in orders[i]:
                if j != i and g @ J[j] < 0:
                    g -= (g @ J[j]) / (J[j] @ J[j]) * J[j]
            total += g
        return total

    return step


def gradvac(num_tasks, beta=0.5, only_corrected=False):
    targets = np.zeros((num_tasks, num_tasks))

    def step(J, orders, **_):
        total = np.zeros(J.shape[1])
        for i in range(num_tasks):
            g = J[i].copy()
            for j in orders[i]:
                if j == i:
                    continue
                norm, other, wanted = np.linalg.norm(g), np.linalg.norm(J[j]), targets[i, j]
                cosine = g @ J[j] / (norm * other)
                if cosine < wanted:
                    sine, wanted_sine = np.sqrt(1 - cosine**2), np.sqrt(1 - wanted**2)
                    g += norm * (wanted * sine - cosine * wanted_sine) / (other * wanted_sine) * J[j]
                    assert abs(g @ J[j] / (np.linalg.norm(g) * other) - wanted) < 1e-6  # that is what it is for
                if cosine < wanted or not only_corrected:
                    targets[i, j] = (1 - beta) * wanted + beta * cosine
            total += g
        return total

    return step


def graddrop(num_tasks, leak=0.0):
    def step(J, draws, **_):
        d = np.zeros(J.shape[1])
        for c in range(J.shape[1]):
            purity = 0.5 * (1 + J[:, c].sum() / np.abs(J[:, c]).sum())
            sign = 1 if purity > draws[c] else -1
            for k in range(num_tasks):
                d[c] += J[k, c] if np.sign(J[k, c]) == sign else leak * J[k, c]
        return d

    return step


def imtl_g(num_tasks):
    """The paper's closed form, which singles out the first task."""

    def step(J, **_):
        U = J / np.linalg.norm(J, axis=1, keepdims=True)
        D, V = J[:1] - J[1:], U[:1] - U[1:]
        others = J[0] @ V.T @ np.linalg.inv(D @ V.T)
        return np.concatenate([[1 - others.sum()], others]) @ J

    return step


def aligned_mtl(num_tasks, preference=None, scale="min"):
    """By singular values of J: those of the aligned gradients are all one number."""
    p = np.full(num_tasks, 1 / num_tasks) if preference is None else np.array(preference)

    def step(J, **_):
        left, values, right = np.linalg.svd(J, full_matrices=False)
        descending = np.sort(values)[::-1]
        length = {
            "min": descending[-1],
            "median": descending[num_tasks // 2],
            "rmse": np.sqrt(np.mean(values**2)),
        }[scale]
        return p @ (length * left @ right)

    return step


def config(num_tasks):
    def step(J, **_):
        U = J / np.linalg.norm(J, axis=1, keepdims=True)
        b = np.linalg.pinv(U) @ np.ones(num_tasks)
        b /= np.linalg.norm(b)
        return sum(g @ b for g in J) * b

    return step


def moco(num_tasks, beta=0.5, gamma=0.1, rho=0.0, beta_sigma=0.5, gamma_sigma=0.5, normalize=True, onto="softmax"):
    t, y, point = 0, 0.0, np.full(num_tasks, 1 / num_tasks)

    def step(J, losses, **_):
        nonlocal t, y, point
        t += 1
        g = losses[:, None] * J / np.linalg.norm(J, axis=1, keepdims=True) if normalize else J
        y = y - beta / t**beta_sigma * (y - g)
        moved = point - gamma / t**gamma_sigma * (y @ y.T + rho * np.eye(num_tasks)) @ point
        point = np.exp(moved - moved.max()) if onto == "softmax" else onto_simplex(moved)
        point /= point.sum()
        return y.T @ point

    return step


def db_mtl(num_tasks, beta=0.9, beta_sigma=0.0):
    t, average = 0, 0.0

    def step(J, losses, **_):
        nonlocal t, average
        t += 1
        keeps = beta / t**beta_sigma
        average = keeps * average + (1 - keeps) * J / (losses + 1e-8)[:, None]
        norms = np.linalg.norm(average, axis=1)
        return norms.max() * (average / norms[:, None]).sum(axis=0)

    return step


def sdmgrad(num_tasks, lam=0.3, learning_rate=0.5, momentum=0.5, steps=20, preference=None):
    p = np.full(num_tasks, 1 / num_tasks) if preference is None else np.array(preference)
    w = np.full(num_tasks, 1 / num_tasks)

    def step(J, independent=None, **_):
        nonlocal w
        first, second = (J, J) if independent is None else independent
        scale = np.mean([np.sqrt(max(g @ h, 0)) for g, h in zip(first, second, strict=True)])
        velocity = np.zeros(num_tasks)
        for _ in range(steps):
            combined = second.T @ (w + lam * p)  # g_w + λ g_p, of one batch; its products with the other's gradients
            velocity = momentum * velocity + first @ combined / scale**2
            w = onto_simplex(w - learning_rate * velocity)
        return (w @ J + lam * p @ J) / (1 + lam)

    return step


def modo(num_tasks, gamma=0.1, rho=0.1):
    point = np.full(num_tasks, 1 / num_tasks)

    def step(J, independent=None, **_):
        nonlocal point
        first, second = (J, J) if independent is None else independent
        point = onto_simplex(point - gamma * (first @ (second.T @ point) + rho * point))
        return point @ J

    return step


def onto_simplex(v):
    """The nearest point: onto the plane where the sum is 1, what is negative there being 0, until nothing is."""
    face = np.ones(len(v), bool)
    while True:
        x = np.where(face, v - (v[face].sum() - 1) / face.sum(), 0.0)
        if x.min() >= 0:
            return x
        face &= x > 0


def onto_simplex_exhaustively(v):
    """Of all faces of the simplex, the nearest projection onto one that lies in it."""
    candidates = []
    for size in range(1, len(v) + 1):
        for face in map(list, itertools.combinations(range(len(v)), size)):
            x = np.zeros(len(v))
            x[face] = v[face] - (v[face].sum() - 1) / size
            candidates.append(x)
    return min((x for x in candidates if x.min() >= 0), key=lambda x: np.sum((x - v) ** 2))
