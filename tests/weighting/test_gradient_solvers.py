"""MGDA, CAGrad, Nash-MTL, FairGrad, UPGrad and DualProj: goldens, exact oracles, identities, degenerate gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracles

from mtlflax import weighting
from mtlflax.weighting import solvers

J = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], np.float32)
N, PROBLEMS = 10, 240
KINDS = ("plain", "conflicting", "agreeing", "badly scaled", "nearly dependent", "two of three")
# name -> (the method, its options, the oracle)
CASES = {
    "mgda": ("mgda", {}, oracles.mgda),
    "cagrad": ("cagrad", {}, oracles.cagrad),
    "nash_mtl": ("nash_mtl", {"max_norm": None}, oracles.nash_mtl),
    "fairgrad": ("fairgrad", {"alpha": 2.0}, functools.partial(oracles.fairgrad, alpha=2.0)),
    "upgrad": ("upgrad", {}, oracles.upgrad),
    "dualproj": ("dualproj", {}, oracles.dualproj),
}
VARIANTS = {
    "cagrad far": ("cagrad", {"alpha": 1.5}, functools.partial(oracles.cagrad, alpha=1.5)),
    "fairgrad low": ("fairgrad", {"alpha": 0.4}, functools.partial(oracles.fairgrad, alpha=0.4)),
    "dualproj exact": ("dualproj", {"regularization": 0.0}, functools.partial(oracles.dualproj, regularization=0.0)),
}
METHODS = tuple(CASES)


@functools.cache
def compiled(name, num_tasks, options=()):
    """A function of [PROBLEMS, K, N]; a loop, since a batched one compiles for twice as long."""
    method = weighting.get(name, num_tasks=num_tasks, **dict(options))

    def direction(gradients):
        return method.update(gradients, method.init(gradients[0]))[0]

    return jax.jit(lambda many: jax.lax.map(direction, many))


def directions(name, gradients, **options):
    """[problems, K, n] -> [problems, n] with up to PROBLEMS and N of them: filled up, so that each is compiled once."""
    problems, num_tasks, n = gradients.shape
    filled = jnp.zeros((PROBLEMS, num_tasks, N), jnp.result_type(gradients)).at[:problems, :, :n].set(gradients)
    given = compiled(name, num_tasks, tuple(options.items()))(filled)
    return np.asarray(given, np.float64)[:problems, :n]


def direct(name, gradients, **options):
    """[K, n] -> [n]."""
    return directions(name, np.asarray(gradients)[None], **options)[0]


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
    return np.stack([(CASES | VARIANTS)[case][2](g) for g in problems(num_tasks)[0]])


def errors(case, num_tasks, dtype):
    name, options, _ = (CASES | VARIANTS)[case]
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


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
@pytest.mark.parametrize("case", CASES)
def test_oracle(case, num_tasks):
    """Beyond a condition number of 1e3 the digits go with those of the cosines, not with a difference in length."""
    _, condition, angles = problems(num_tasks)
    single = errors(case, num_tasks, np.float32)
    assert single[condition <= 1e3].max() < 1e-4
    assert single[angles <= 1e2].max() < 1e-3
    if num_tasks == 3:
        with jax.enable_x64(True):
            double = errors(case, num_tasks, np.float64)
        assert double[condition <= 1e6].max() < 1e-6


@pytest.mark.parametrize("case", VARIANTS)
def test_oracle_with_other_options(case):
    assert errors(case, 3, np.float32)[problems(3)[1] <= 1e3].max() < 1e-4


@pytest.mark.parametrize(
    ("name", "options", "golden"),
    [
        ("mgda", {}, [0, 1, 1]),
        ("mgda", {"times_tasks": True}, [0, 2, 2]),
        ("cagrad", {}, [0.1835, 1.2041, 1.2041]),
        ("cagrad", {"scale": "libmtl"}, [0.1835 / 1.25, 1.2041 / 1.25, 1.2041 / 1.25]),
        ("cagrad", {"scale": "official"}, [0.1835 * 1.6, 1.2041 * 1.6, 1.2041 * 1.6]),
        ("cagrad", {"alpha": 0.0}, [1, 1, 1]),
        ("nash_mtl", {}, [0.0542, 0.7061, 0.7061]),
        ("nash_mtl", {"max_norm": 0.5}, [0.0271, 0.35305, 0.35305]),
        ("nash_mtl", {"max_norm": None}, [0.0766, 0.9985, 0.9985]),
        ("fairgrad", {}, [0.0766, 0.9985, 0.9985]),
        ("upgrad", {}, [0.2929, 1.9004, 1.9004]),
        ("dualproj", {}, [0.5563, 1.1109, 1.1109]),
    ],
)
def test_golden(name, options, golden):
    np.testing.assert_allclose(direct(name, J, **options), golden, atol=1e-4)


def test_mgda_normalisations():
    """The weights are those of the normalised gradients; `combine` says which gradients they combine."""
    gradients, losses = problems(3)[0][0].astype(np.float32), np.array([0.5, 3.0, 1.0], np.float32)
    lengths = np.linalg.norm(gradients, axis=1)

    def compiled(**options):
        method = weighting.get("mgda", num_tasks=3, **options)
        return jax.jit(lambda losses: method.update(gradients, method.init(gradients[0]), losses=losses))

    def wanted(divisors):
        """The direction, and the weights it is made with, of the normalised gradients."""
        normalised = (gradients / divisors[:, None]).astype(np.float64)
        direction = oracles.mgda(normalised)
        return direction, np.linalg.lstsq(normalised.T, direction, rcond=None)[0]

    for normalize, divisors in {"l2": lengths, "loss+": lengths * losses}.items():
        direction, _ = compiled(normalize=normalize, combine="normalized")(losses)
        np.testing.assert_allclose(direction, wanted(divisors)[0], rtol=1e-4, atol=1e-5)
    raw = compiled(normalize="loss")
    for given, divisors in [(losses, losses), (np.array([0.0, -1.0, 1.0], np.float32), np.ones(3))]:
        direction, state = raw(given)
        weights = wanted(divisors)[1]
        np.testing.assert_allclose(weighting.weights(state), weights, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(direction, weights @ gradients, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="needs losses"):
        raw(None)


def test_nash_has_a_closed_form_for_two_tasks():
    gradients, condition, _ = problems(2)
    gradients = gradients[condition <= 1e3]
    lengths = np.linalg.norm(gradients, axis=2)
    cosine = np.sum(gradients[:, 0] * gradients[:, 1], axis=1) / lengths.prod(axis=1)
    a = 1 / (lengths * np.sqrt(1 + cosine)[:, None])
    given = directions("nash_mtl", jnp.asarray(gradients, jnp.float32), max_norm=None)
    np.testing.assert_allclose(given, np.einsum("pk,pkn->pn", a, gradients), rtol=1e-4, atol=2e-4)
    projections = np.einsum("pn,pkn->pk", given, gradients) / lengths  # IMTL-G's condition
    np.testing.assert_allclose(projections[:, 0], projections[:, 1], rtol=1e-3)


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
def test_fairgrad_is_nash_without_clipping(num_tasks):
    gradients = jnp.asarray(problems(num_tasks)[0], jnp.float32)
    unclipped = directions("nash_mtl", gradients, max_norm=None)
    np.testing.assert_array_equal(directions("fairgrad", gradients), unclipped)
    usable = problems(num_tasks)[1] <= 1e3
    np.testing.assert_allclose(np.linalg.norm(unclipped[usable], axis=1), np.sqrt(num_tasks), rtol=1e-4)
    clipped = directions("nash_mtl", gradients)
    assert np.linalg.norm(clipped, axis=1)[usable].max() < 1 + 1e-4
    np.testing.assert_allclose(clipped[usable] * np.sqrt(num_tasks), unclipped[usable], rtol=1e-3, atol=1e-3)


def test_nash_keeps_its_weights_between_solves():
    history = jnp.asarray(problems(3)[0][:5], jnp.float32)
    method = weighting.get("nash_mtl", num_tasks=3, update_every=3)
    update = jax.jit(method.update)
    kept, state = [], method.init(history[0][0])
    for gradients in history:
        direction, state = update(gradients, state)
        state = jax.tree.map(jnp.asarray, jax.device_get(state))  # as through a checkpoint
        assert np.linalg.norm(direction) < 1 + 1e-4  # on the gradients of this step
        kept.append(weighting.weights(state) / jnp.sum(weighting.weights(state)))
    solved = [update(gradients, method.init(gradients[0]))[1].weights for gradients in history]
    solved = [weights / jnp.sum(weights) for weights in solved]
    assert not np.allclose(solved[0], solved[1], rtol=1e-2)
    for step, of in enumerate([0, 0, 0, 3, 3]):
        np.testing.assert_allclose(kept[step], solved[of], rtol=1e-5)


@pytest.mark.parametrize("name", ["upgrad", "dualproj"])
def test_projections_conflict_with_no_task(name):
    gradients, condition, _ = problems(3)
    gradients = gradients[condition <= 1e3]
    given = directions(name, jnp.asarray(gradients, jnp.float32), regularization=0.0)
    slopes = np.einsum("pn,pkn->pk", given, gradients)
    assert (slopes > -1e-4 * np.linalg.norm(gradients, axis=2) * np.linalg.norm(given, axis=1)[:, None]).all()
    agreeing = np.array([(g @ g.T > 0).all() for g in gradients])
    np.testing.assert_allclose(given[agreeing], gradients[agreeing].mean(axis=1), rtol=1e-4, atol=1e-5)
    assert 0 < agreeing.sum() < len(gradients)


@pytest.mark.parametrize("name", ["upgrad", "dualproj"])
def test_projection_options(name):
    assert direct(name, J, preference=(0.0, 1.0))[0] > 1  # of the second task's gradient
    small = 1e-3 * J
    np.testing.assert_allclose(direct(name, small), 1e-3 * direct(name, J), rtol=1e-4)
    np.testing.assert_allclose(direct(name, small, norm_eps=1e-4), small.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(direct(name, J, norm_eps=1e-4), direct(name, J), rtol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_degenerate_gradients(name):
    """What the docstrings promise: equal, opposite and zero gradients, and three in a plane whose mean is 0."""
    g = np.array([1.0, -2.0, 0.5], np.float32)
    length = np.linalg.norm(g)
    zero, across = np.zeros(3, np.float32), np.array([2.0, 1.0, 0.0], np.float32)
    star = np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [-0.5, -(0.75**0.5), 0]], np.float32)
    given = {
        case: directions(name, jnp.asarray(rows, jnp.float32)[None])[0]
        for case, rows in {
            "equal": [g, g, g],
            "opposite": [g, -g, zero],
            "opposite and another": [g, -g, across],
            "one zero": [g, across, zero],
            "one of three": [g, zero, zero],
            "all zero": [zero, zero, zero],
            "star": star,
        }.items()
    }
    assert all(np.isfinite(d).all() for d in given.values())
    equal = {"mgda": 1, "cagrad": 1.5, "nash_mtl": 1 / length, "fairgrad": 3**0.5 / length, "upgrad": 1, "dualproj": 1}
    np.testing.assert_allclose(given["equal"], equal[name] * g, rtol=1e-4)
    np.testing.assert_allclose(given["opposite"], 0, atol=1e-3)
    np.testing.assert_allclose(given["all zero"], 0)
    np.testing.assert_allclose(given["star"], 0, atol=5e-3)
    # A zero gradient: MGDA stops; Nash and FairGrad let the others bargain, the rest takes it into the mean only.
    both = {
        "mgda": zero,
        "nash_mtl": (g / length + across / 5**0.5) / 2**0.5,
        "fairgrad": g / length + across / 5**0.5,
        "upgrad": (g + across) / 3,
        "dualproj": (g + across) / 3,
    }
    if name == "cagrad":
        mean = (g + across) / 3
        np.testing.assert_allclose(np.linalg.norm(given["one zero"] - mean), 0.5 * np.linalg.norm(mean), rtol=1e-4)
        slopes = np.array([g @ given["one zero"], across @ given["one zero"]])
        assert slopes.min() > np.array([g @ mean, across @ mean]).min()  # the others are helped as far as it goes
    else:
        np.testing.assert_allclose(given["one zero"], both[name], rtol=1e-3, atol=1e-5)
    alone = {
        "mgda": 0,
        "cagrad": 0.5,
        "nash_mtl": 1 / length,
        "fairgrad": 1 / length,
        "upgrad": 1 / 3,
        "dualproj": 1 / 3,
    }
    np.testing.assert_allclose(given["one of three"], alone[name] * g, rtol=1e-4, atol=1e-6)
    # Along what does not conflict the direction goes on, save MGDA's.
    assert (given["opposite and another"] @ across > 0.1) == (name != "mgda")


@pytest.mark.parametrize("name", METHODS)
def test_finite_whatever_the_gradients(name):
    rng = np.random.default_rng(0)
    for num_tasks in (3, 8):
        ranks = [rng.normal(size=(num_tasks, r)) @ rng.normal(size=(r, N)) for r in (1, 2, num_tasks - 1)]
        extremes = [
            rng.normal(size=(num_tasks, N)) * 10.0 ** rng.uniform(-power, power, size=(num_tasks, 1))
            for power in (8, 16)
        ]
        scales = [10.0**power * rng.normal(size=(num_tasks, N)) for power in (-16, -8, 8, 16)]
        gradients = np.stack([*ranks, *extremes, *scales])
        assert np.isfinite(directions(name, jnp.asarray(gradients, jnp.float32))).all()


@pytest.mark.parametrize("name", ["mgda", "cagrad", "upgrad", "dualproj"])
def test_a_factor_on_all_gradients_is_one_on_the_direction(name):
    for factor in (1e-15, 1e15):
        np.testing.assert_allclose(direct(name, factor * J), factor * direct(name, J), rtol=1e-4, atol=1e-5 * factor)


def test_many_tasks():
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(24, 64)) + 0.5 * rng.normal(size=64)
    method = weighting.get("mgda", num_tasks=24)
    given = np.asarray(jax.jit(lambda g: method.update(g, method.init(g[0]))[0])(jnp.asarray(gradients, jnp.float32)))
    assert (gradients @ given >= given @ given - 1e-3).all()  # the condition of optimality


def test_solvers_alone():
    rng = np.random.default_rng(2)
    factor = rng.normal(size=(6, 6))
    Q, c = (factor @ factor.T).astype(np.float32), rng.normal(size=6).astype(np.float32)
    x = np.asarray(solvers.nonnegative_qp(jnp.asarray(Q), jnp.asarray(c)))
    gradient = Q @ x - c
    assert x.min() >= 0
    np.testing.assert_allclose(np.minimum(x, gradient), 0, atol=1e-4)
    assert 0 < (x == 0).sum() < 6


def test_mistakes_are_named():
    for name, options, message in [
        ("mgda", {"normalize": "l1"}, "mgda: normalize"),
        ("mgda", {"combine": "both"}, "mgda: combine"),
        ("cagrad", {"alpha": -1.0}, "cagrad: alpha"),
        ("cagrad", {"scale": "half"}, "cagrad: scale"),
        ("nash_mtl", {"max_norm": 0.0}, "nash_mtl: max_norm"),
        ("nash_mtl", {"update_every": 0}, "nash_mtl: update_every"),
        ("fairgrad", {"alpha": 0.0}, "fairgrad: alpha"),
        ("upgrad", {"regularization": -1.0}, "upgrad: regularization"),
        ("dualproj", {"norm_eps": -1.0}, "dualproj: norm_eps"),
        ("dualproj", {"preference": (1.0,)}, "dualproj: 1 preferences given for 2 tasks"),
        ("upgrad", {"preference": (1.0, -1.0)}, "upgrad: preference must be finite and at least 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            weighting.get(name, num_tasks=2, **options)
