"""MGDA, CAGrad, Nash-MTL, FairGrad, UPGrad and DualProj: goldens, exact oracles, identities, degenerate gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from mtlflax import weighting
from mtlflax.weighting import solvers

J = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], np.float32)
N, PROBLEMS = 10, 240
KINDS = ("plain", "conflicting", "agreeing", "badly scaled", "nearly dependent", "two of three")
# name -> (the method, its options, the oracle, for how many tasks)
CASES = {
    "mgda": ("mgda", {}, oracles.mgda, (2, 3, 5)),
    "cagrad": ("cagrad", {}, oracles.cagrad, (2, 3, 5)),
    "cagrad near": ("cagrad", {"alpha": 0.1}, functools.partial(oracles.cagrad, alpha=0.1), (3,)),
    "cagrad far": ("cagrad", {"alpha": 1.5}, functools.partial(oracles.cagrad, alpha=1.5), (3,)),
    "nash_mtl": ("nash_mtl", {"max_norm": None}, oracles.nash_mtl, (2, 3, 5)),
    "fairgrad": ("fairgrad", {"alpha": 2.0}, functools.partial(oracles.fairgrad, alpha=2.0), (2, 3, 5)),
    "fairgrad low": ("fairgrad", {"alpha": 0.4}, functools.partial(oracles.fairgrad, alpha=0.4), (3,)),
    "upgrad": ("upgrad", {}, oracles.upgrad, (2, 3, 5)),
    "dualproj": ("dualproj", {}, oracles.dualproj, (2, 3, 5)),
    "dualproj exact": (
        "dualproj",
        {"regularisation": 0.0},
        functools.partial(oracles.dualproj, regularisation=0.0),
        (3,),
    ),
}
METHODS = ("mgda", "cagrad", "nash_mtl", "fairgrad", "upgrad", "dualproj")


def direct(name, gradients, losses=None, **options):
    """The direction for one Jacobian, [K, n] -> [n]."""
    method = weighting.get(name, num_tasks=len(gradients), **options)
    gradients = jnp.asarray(gradients)
    return np.asarray(method.update(gradients, method.init(gradients[0]), losses=losses)[0])


@functools.cache
def batched(name, num_tasks, options=()):
    """A compiled function [problems, K, n] -> [problems, n]; a loop, since a batched one compiles for twice as long."""
    method = weighting.get(name, num_tasks=num_tasks, **dict(options))

    def direction(gradients):
        return method.update(gradients, method.init(gradients[0]))[0]

    return jax.jit(lambda many: jax.lax.map(direction, many))


def directions(name, gradients, **options):
    return np.asarray(batched(name, gradients.shape[1], tuple(options.items()))(gradients), np.float64)


@functools.cache
def problems(num_tasks):
    """Jacobians [PROBLEMS, K, N], their condition numbers of G, and those of the cosines."""
    rng = np.random.default_rng(num_tasks)
    found = []
    while len(found) < PROBLEMS:
        kind = KINDS[len(found) % len(KINDS)]
        g = rng.normal(size=(num_tasks, N))
        if kind == "conflicting":
            g += rng.choice([-1.5, 1.5], size=(num_tasks, 1)) * rng.normal(size=N)
        elif kind == "agreeing":
            g += 1.5 * rng.normal(size=N)
        elif kind == "badly scaled":
            g *= 10 ** rng.uniform(-4, 4, size=(num_tasks, 1))
        elif kind == "nearly dependent":
            g[-1] = rng.normal(size=num_tasks - 1) @ g[:-1] + 10 ** rng.uniform(-3, 0) * g[-1]
        elif kind == "two of three" and np.sum(np.triu(g[:3] @ g[:3].T, 1) < 0) != min(2, num_tasks - 1):
            continue
        found.append(g.astype(np.float32).astype(np.float64))
    gradients = np.stack(found)
    units = gradients / np.linalg.norm(gradients, axis=2, keepdims=True)
    return gradients, *(np.linalg.cond(m) ** 2 for m in (gradients, units))


@functools.cache
def expected(case, num_tasks):
    return np.stack([CASES[case][2](g) for g in problems(num_tasks)[0]])


def errors(case, num_tasks, dtype):
    name, options, *_ = CASES[case]
    given = directions(name, jnp.asarray(problems(num_tasks)[0], dtype), **options)
    assert np.isfinite(given).all()
    wanted = expected(case, num_tasks)
    return np.linalg.norm(given - wanted, axis=1) / np.linalg.norm(wanted, axis=1)


def test_the_problems_are_varied():
    for num_tasks in (2, 3, 5):
        gradients, condition, _ = problems(num_tasks)
        conflicts = np.array([np.sum(np.triu(g @ g.T, 1) < 0) for g in gradients])
        assert np.sum(condition <= 1e3) > 120
        assert np.sum(condition > 1e6) > 15
        assert np.sum(conflicts == 0) > 15
        assert np.sum(conflicts > 0) > 100


@pytest.mark.parametrize(("case", "num_tasks"), [(case, k) for case, row in CASES.items() for k in row[3]])
def test_oracle(case, num_tasks):
    """Beyond a condition number of 1e3 the digits go with those of the cosines, not with a difference in length."""
    _, condition, angles = problems(num_tasks)
    single = errors(case, num_tasks, np.float32)
    assert single[condition <= 1e3].max() < 1e-4
    if case != "dualproj exact":  # unregularised, lengths 1e8 apart are as 0 to it
        assert single[angles <= 1e2].max() < 1e-3
    with jax.enable_x64(True):
        double = errors(case, num_tasks, np.float64)
    assert double[condition <= 1e6].max() < 1e-6
