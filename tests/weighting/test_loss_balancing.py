"""Every loss balancing: formulas in NumPy, totals under jax.grad, extremes, resume, chains, the lift, mistakes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtlflax import weighting
from mtlflax.weighting import loss_balancing
from mtlflax.weighting.lift import LossBalancing

J = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], np.float32)
SHAPES = {"a": (3, 2), "b": (4,)}  # of the shared parameters
OPTIONS = {
    "constant": {"weights": (1.0, 2.0, 3.0)},
    "dwa": {"steps_per_epoch": 2},
    "ewdw": {"steps_per_epoch": 1},
    "excess_mtl": {"step_size": 0.3},
    "stch": {"warmup_epochs": 1, "steps_per_epoch": 2},
}
LEARNERS = ("uncertainty", "imtl_l", "gradnorm", "famo")


def get(name, **options):
    """The method by name; in float64 where that is switched on."""
    if name == "excess_mtl":
        dtype = jnp.zeros(()).dtype
        options["parameters"] = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in SHAPES.items()}
    return loss_balancing.METHODS[name](**{**OPTIONS.get(name, {}), **options})


def make_history(num_tasks, steps=12, seed=0, dtype=np.float64):
    """Losses and all that a method may need beside them, for every step."""
    rng = np.random.default_rng([num_tasks, seed])
    losses = np.exp(rng.normal(size=(steps, num_tasks)))
    after = losses * np.exp(0.2 * rng.normal(size=losses.shape))
    return jax.tree.map(
        lambda x: np.asarray(x, dtype),
        {
            "losses": losses,
            "gradient_norms": np.exp(rng.normal(size=losses.shape)),
            "task_gradients": {name: rng.normal(size=(steps, num_tasks, *shape)) for name, shape in SHAPES.items()},
            "losses_after": np.roll(after, 1, axis=0),  # at step t: those of the batch of step t − 1
        },
    )


def feed(transform, name):
    """`(state, one step of a history) -> (weights, state)`, with what the method needs and nothing else."""
    needed = loss_balancing.needs(name)

    def step(state, given):
        extra = {key: given[key] for key in needed}
        return transform.update(jnp.ones_like(given["losses"]), state, given["losses"], **extra)

    return step


@functools.cache
def default(name):
    """The method with the options above, always the same object: `run` compiles it once a shape."""
    return get(name)


@functools.cache
def compiled(transform, name):
    step = feed(transform, name)

    def body(state, given):
        weights, state = step(state, given)
        return state, (weights, state)

    return jax.jit(lambda start, history: jax.lax.scan(body, start, history)[1])


def run(transform, name, history):
    """The weights [steps, K] and the states after each step, by scan."""
    return compiled(transform, name)(transform.init(jnp.zeros_like(history["losses"][0])), history)


def at(history, step):
    return jax.tree.map(lambda x: x[step], history)


# --- The formulas, in NumPy and float64 ------------------------------------------------------------------------------


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def sgd(rate):
    return lambda gradient: -rate * gradient


def adam(rate):
    """Kingma & Ba 2015, with torch's and optax's defaults."""
    state = {"t": 0, "m": 0.0, "v": 0.0}

    def step(gradient):
        state["t"] += 1
        state["m"] = 0.9 * state["m"] + 0.1 * gradient
        state["v"] = 0.999 * state["v"] + 0.001 * gradient**2
        m, v = state["m"] / (1 - 0.9 ** state["t"]), state["v"] / (1 - 0.999 ** state["t"])
        return -rate * m / (np.sqrt(v) + 1e-8)

    return step


RULES = {"sgd": (sgd, optax.sgd), "adam": (adam, optax.adam)}


def simulate_uncertainty(history, rule, kinds=None, initial=0.0):
    s = np.full(history["losses"].shape[1], initial)
    c = np.array([{"classification": 1.0, "regression": 0.5}[kind] for kind in kinds or ["regression"] * len(s)])
    for losses in history["losses"]:
        w = c * np.exp(-s)
        s = s + rule(0.5 - c * np.exp(-s) * losses)
        yield w, {"scales": s}


def simulate_imtl_l(history, rule, initial=0.0):
    s = np.full(history["losses"].shape[1], initial)
    for losses in history["losses"]:
        w = np.exp(s)
        s = s + rule(np.exp(s) * losses - 1)
        yield w, {"scales": s}


def simulate_gradnorm(history, rule, alpha=1.5, parametrization="direct", initial_losses=None, factors=1.0):
    """`factors` [steps, K]: the cotangents that come in."""
    num_tasks = history["losses"].shape[1]
    first = np.array(initial_losses) if initial_losses else history["losses"][0]
    learned = np.ones(num_tasks) if parametrization == "direct" else np.zeros(num_tasks)
    factors = np.broadcast_to(factors, history["losses"].shape)
    for losses, norms, factor in zip(history["losses"], history["gradient_norms"], factors, strict=True):
        w = learned if parametrization == "direct" else num_tasks * softmax(learned)
        n = np.abs(factor) * norms
        rates = losses / first
        targets = (w * n).mean() * (rates / rates.mean()) ** alpha
        slope = np.where(w * n > targets, n, -n)
        if parametrization == "direct":
            learned = learned + rule(slope)
            learned = num_tasks * learned / learned.sum()
        else:
            jacobian = num_tasks * (np.diag(w / num_tasks) - np.outer(w, w) / num_tasks**2)
            learned = learned + rule(jacobian @ slope)
        yield w, {"learned": learned, "targets": targets, "initial_losses": first}


def simulate_famo(history, rule, gamma=1e-3, min_losses=0.0):
    xi = np.zeros(history["losses"].shape[1])
    before = None
    for losses, after in zip(history["losses"], history["losses_after"], strict=True):
        if before is not None:
            z = softmax(xi)
            fall = np.log(before - min_losses + 1e-8) - np.log(after - min_losses + 1e-8)
            xi = xi + rule((np.diag(z) - np.outer(z, z)) @ fall + gamma * xi)
        w = softmax(xi) / (losses - min_losses + 1e-8)
        before = losses
        yield w / w.sum(), {"logits": xi, "previous_losses": losses}


def simulate_excess_mtl(history, step_size=0.01, total=None, warmup_steps=1):
    steps, num_tasks = history["losses"].shape
    stacked = [g.reshape(steps, num_tasks, -1) for g in history["task_gradients"].values()]
    gradients = np.concatenate(stacked, axis=2)
    goal = num_tasks if total is None else total
    w, squares = np.full(num_tasks, goal / num_tasks), 0.0
    for step, g in enumerate(gradients):
        squares = squares + g**2
        h = (g**2 / np.sqrt(squares + 1e-7)).sum(axis=1)
        if step == 0:
            first = h
        if step >= warmup_steps:
            w = w * np.exp(step_size * (h / first if step else h))
            w = goal * w / w.sum()
        yield w, {"initial": first}


def simulate_stch(history, mu=1.0, warmup=6, averaged=6):
    num_tasks = history["losses"].shape[1]
    nadir = history["losses"][warmup - averaged : warmup].mean(axis=0)
    for step, losses in enumerate(history["losses"]):
        p = num_tasks * softmax(np.log(losses / nadir) / mu)
        yield (1 if step < warmup else p) / losses, {}


def simulate_dwa_window(history, window, temperature=2.0):
    """As nash-mtl has it: a history of ones, filled from the right."""
    num_tasks = history["losses"].shape[1]
    costs = np.ones((2 * window, num_tasks))
    for step, losses in enumerate(history["losses"]):
        costs = np.vstack([costs[1:], losses])
        ratio = costs[window:].mean(axis=0) / costs[:window].mean(axis=0)
        yield (num_tasks * softmax(ratio / temperature) if step > window else np.ones(num_tasks)), {"history": costs}


def simulate_stateless(weigh):
    return lambda history: ((weigh(losses), {}) for losses in history["losses"])


def geometric_weights(losses):
    return losses.prod() ** (1 / losses.size) / (losses.size * losses)


def simulate_adamt(history):
    return ((norms / norms.sum(), {}) for norms in history["gradient_norms"])


def simulate_gwgl(history, rule):
    geometric = np.array([geometric_weights(losses) for losses in history["losses"]])
    for first, (second, _) in zip(geometric, simulate_gradnorm(history, rule, factors=geometric), strict=True):
        yield first * second, {}


# name, options of the factory, the formula; learners with each rule
CASES = [
    ("scale_invariant", {}, simulate_stateless(lambda losses: 1 / losses)),
    ("geometric", {}, simulate_stateless(geometric_weights)),
    ("adamt", {}, simulate_adamt),
    ("stch", {"warmup_epochs": 2.0, "steps_per_epoch": 3}, simulate_stch),
    (
        "stch",
        {"mu": 0.3, "warmup_epochs": 2.0, "nadir_epochs": 1, "steps_per_epoch": 3},
        functools.partial(simulate_stch, mu=0.3, averaged=3),
    ),
    ("dwa", {"window": 4}, functools.partial(simulate_dwa_window, window=4)),
    ("excess_mtl", {"step_size": 0.01}, simulate_excess_mtl),
    (
        "excess_mtl",
        {"step_size": 1.0, "total": 1.0, "warmup_steps": 0},
        functools.partial(simulate_excess_mtl, step_size=1.0, total=1.0, warmup_steps=0),
    ),
]
LEARNED = [
    ("uncertainty", {}, simulate_uncertainty),
    ("uncertainty", {"initial": -0.5, "kinds": "alternating"}, simulate_uncertainty),
    ("imtl_l", {}, simulate_imtl_l),
    ("imtl_l", {"initial": 0.3}, simulate_imtl_l),
    ("gradnorm", {}, simulate_gradnorm),
    ("gradnorm", {"alpha": 0.5, "initial_losses": "given", "parametrization": "softmax"}, simulate_gradnorm),
    ("famo", {}, simulate_famo),
    ("famo", {"gamma": 0.1, "min_losses": "given"}, simulate_famo),
    ("gwgl", {}, simulate_gwgl),
]


def fill(options, num_tasks):
    """Options that have a value for each task."""
    values = {
        "kinds": tuple(("classification", "regression")[k % 2] for k in range(num_tasks)),
        "initial_losses": tuple(1.0 + 0.5 * k for k in range(num_tasks)),
        "min_losses": tuple(0.001 * k for k in range(num_tasks)),
    }
    return {key: values.get(key, value) for key, value in options.items()}


def compare(name, transform, formula, history, rtol):
    weights, states = run(transform, name, history)
    expected, learned = zip(*formula(jax.tree.map(np.float64, history)), strict=True)
    np.testing.assert_allclose(weights, np.stack(expected), rtol=rtol)
    np.testing.assert_allclose(jax.vmap(weighting.weights)(states), np.stack(expected), rtol=rtol)
    for field in learned[0]:
        values = np.stack([step[field] for step in learned])
        np.testing.assert_allclose(getattr(states, field), values, rtol=rtol, atol=rtol, err_msg=field)


def identify(case):
    name, options, _ = case
    return "-".join([name, *options])


@pytest.mark.parametrize("num_tasks", [2, 3, 5, 8])
@pytest.mark.parametrize("case", CASES, ids=identify)
def test_formula_step_by_step(case, num_tasks):
    name, options, formula = case
    with jax.enable_x64(True):
        compare(name, get(name, **options), formula, make_history(num_tasks), rtol=1e-10)


@pytest.mark.parametrize(("num_tasks", "rule"), [(2, "adam"), (3, "sgd"), (5, "adam"), (8, "sgd")])
@pytest.mark.parametrize("case", LEARNED, ids=identify)
def test_formula_and_what_is_learned_step_by_step(case, rule, num_tasks):
    name, options, formula = case
    options = fill(options, num_tasks)
    numpy_rule, optax_rule = RULES[rule]
    with jax.enable_x64(True):
        transform = get(name, **options, optimizer=optax_rule(0.05))
        formula = functools.partial(formula, rule=numpy_rule(0.05), **options)
        compare(name, transform, formula, make_history(num_tasks), rtol=1e-9)


@pytest.mark.parametrize("case", [*CASES, *LEARNED[::2]], ids=identify)
def test_formula_in_float32(case):
    name, options, formula = case
    if any(name == learned for learned, _, _ in LEARNED):
        options = {"optimizer": optax.adam(0.05)}
        formula = functools.partial(formula, rule=adam(0.05))
    compare(name, get(name, **options), formula, make_history(5, dtype=np.float32), rtol=1e-5)


def test_random_draws_are_a_function_of_seed_and_step():
    history = make_history(3, dtype=np.float32)
    weights, _ = run(get("random", seed=7), "random", history)
    for step, given in enumerate(weights):
        draw = np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(7), step), (3,)), np.float64)
        np.testing.assert_allclose(given, softmax(draw), rtol=1e-5)
    assert len(np.unique(weights)) == weights.size
    assert not np.isclose(weights, run(get("random", seed=8), "random", history)[0]).any()


@pytest.mark.parametrize("name", ["uncertainty", "imtl_l", "gradnorm", "famo"])
def test_the_learning_rate_is_that_of_adam(name):
    rate = 1e-4 if name in ("uncertainty", "imtl_l") else 0.025
    history = make_history(2, steps=4, dtype=np.float32)
    assert weighting.options(name)["learning_rate"] == rate
    for ours, adams in (({}, rate), ({"learning_rate": 0.2}, 0.2)):
        transforms = get(name, **ours), get(name, optimizer=optax.adam(adams))
        jax.tree.map(np.testing.assert_array_equal, *(run(t, name, history)[1] for t in transforms))


# --- Goldens, and totals differentiated ------------------------------------------------------------------------------


def test_goldens():
    losses = jnp.array([1.0, 2.0, 4.0])
    for name, total in (("uncertainty", 3.5), ("imtl_l", 7.0), ("geometric", 2.0)):  # at s = 0 the totals are Σ w L
        weights, _ = get(name).update(jnp.ones(3), get(name).init(losses), losses)
        np.testing.assert_allclose(weights @ losses, total, rtol=1e-6)

    t = get("famo", gamma=0.0, optimizer=optax.sgd(1.0))
    weights, state = t.update(jnp.ones(2), t.init(jnp.zeros(2)), jnp.array([1.0, 2.0]), losses_after=jnp.ones(2))
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(state.logits, 0)  # nothing was due yet
    _, state = t.update(jnp.ones(2), state, jnp.array([1.0, 2.0]), losses_after=jnp.array([0.9, 1.9]))
    np.testing.assert_allclose(state.logits, [-0.013517, 0.013517], atol=1e-6)  # descends along (+, −)

    t = get("gradnorm", initial_losses=(2.0, 3.0), optimizer=optax.sgd(0.01))
    norms = jnp.linalg.norm(J, axis=1)
    _, state = t.update(jnp.ones(2), t.init(jnp.zeros(2)), jnp.array([1.0, 2.0]), gradient_norms=norms)
    np.testing.assert_allclose(state.targets, [4.12931, 6.35749], atol=1e-4)
    np.testing.assert_allclose(state.learned, [0.948, 1.052], atol=1e-3)  # the first norm is above its target

    for name, scales in (("uncertainty", [0, 0.05, 0.15]), ("imtl_l", [0, -0.1, -0.3])):
        t = get(name, optimizer=optax.sgd(0.1))
        np.testing.assert_allclose(t.update(jnp.ones(3), t.init(losses), losses)[1].scales, scales, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "history", "extra", "golden"),
    [
        ("adamt", {}, [[1, 1]], {"gradient_norms": [[3, 1]]}, [0.75, 0.25]),
        ("constant", {"weights": (1.0, 2.0)}, [[3, 5]], {}, [1, 2]),
        ("equal", {}, [[3, 5]], {}, [1, 1]),
        ("dwa", {"steps_per_epoch": 1}, [[1, 1], [1, 4], [1, 1]], {}, [0.3649, 1.6351]),
        ("ewdw", {"steps_per_epoch": 1}, [[1, 4]], {}, [1, 1]),
        ("geometric", {}, [[1, 2, 4]], {}, [0.6667, 0.3333, 0.1667]),
        ("gwgl", {}, [[1, 4]], {"gradient_norms": [[1, 1]]}, [1, 0.25]),  # GradNorm's are still 1
        ("scale_invariant", {}, [[0.5, 4, 0]], {}, [2, 0.25, 0]),
        (
            "stch",
            {"warmup_epochs": 1, "steps_per_epoch": 1},
            [[2, 4], [1, 6]],
            {},
            [0.5, 0.25],
        ),  # 0.5, 1.5 of the nadir
        (
            "excess_mtl",  # h = 3, 1; 16 / 5, 1 / √2: 2 softmax([16 / 15, 1 / √2])
            {"step_size": 1.0, "parameters": jnp.zeros(1)},
            [[1, 1], [1, 1]],
            {"task_gradients": [[[3], [1]], [[4], [1]]]},
            [1.1779, 0.8221],
        ),
    ],
)
def test_weights_after_a_few_updates(name, options, history, extra, golden):
    t = loss_balancing.METHODS[name](**options)
    ones = jnp.ones(len(golden))
    state = t.init(ones)
    for step, losses in enumerate(history):
        given = {key: jnp.array(values[step], jnp.float32) for key, values in extra.items()}
        weights, state = t.update(ones, state, jnp.array(losses, jnp.float32), **given)
    np.testing.assert_allclose(weights, golden, atol=1e-4)


def test_the_gradient_of_the_total_is_the_weights():
    history = make_history(3, steps=6)
    kinds = ("classification", "regression", "classification")
    c = np.array([1.0, 0.5, 1.0])
    with jax.enable_x64(True):
        losses = jnp.asarray(history["losses"][-1])
        nadir = history["losses"][:2].mean(axis=0)
        closed = {
            "scale_invariant": ({}, lambda state, x: jnp.sum(jnp.log(x))),
            "geometric": ({}, lambda state, x: jnp.prod(x) ** (1 / 3)),
            "uncertainty": ({"kinds": kinds}, lambda s, x: jnp.sum(c * jnp.exp(-s) * x + 0.5 * s)),
            "imtl_l": ({}, lambda s, x: jnp.sum(jnp.exp(s) * x - s)),
            "stch": ({"mu": 0.4}, lambda state, x: 3 * 0.4 * jnp.log(jnp.sum(jnp.exp(jnp.log(x / nadir) / 0.4)))),
        }
        for name, (options, total) in closed.items():
            learns = name in LEARNERS
            transform = get(name, **options, **({"optimizer": optax.sgd(0.1)} if learns else {}))
            _, states = run(transform, name, history)
            before, after = at(states, -2), at(states, -1)
            inner = before.scales if learns else None
            slope, gradient = jax.grad(total, argnums=(0, 1), allow_int=True)(inner if learns else jnp.zeros(3), losses)
            np.testing.assert_allclose(after.weights, gradient, rtol=1e-10, err_msg=name)
            if learns:
                np.testing.assert_allclose(after.scales, before.scales - 0.1 * slope, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("parametrization", ["direct", "softmax"])
def test_gradnorm_descends_on_its_objective(parametrization):
    history = make_history(5, steps=3)
    with jax.enable_x64(True):
        transform = get("gradnorm", parametrization=parametrization, optimizer=optax.sgd(1e-3))
        _, states = run(transform, "gradnorm", history)
        before, after, given = at(states, 1), at(states, 2), at(history, 2)

        def objective(learned):
            w = learned if parametrization == "direct" else 5 * jax.nn.softmax(learned)
            weighted = w * given["gradient_norms"]
            rates = given["losses"] / history["losses"][0]
            target = jax.lax.stop_gradient(weighted.mean() * (rates / rates.mean()) ** 1.5)
            return jnp.sum(jnp.abs(weighted - target))

        expected = before.learned - 1e-3 * jax.grad(objective)(before.learned)
        if parametrization == "direct":
            expected = 5 * expected / expected.sum()
        np.testing.assert_allclose(after.learned, expected, rtol=1e-10)


def test_famo_is_the_gradient_of_its_total_and_descends_along_the_fall():
    history = make_history(5, steps=3)
    with jax.enable_x64(True):
        _, states = run(get("famo", gamma=0.01, optimizer=optax.sgd(0.1)), "famo", history)
        before, after, given = at(states, 1), at(states, 2), at(history, 2)
        previous = history["losses"][1]
        fall = jnp.log(previous + 1e-8) - jnp.log(given["losses_after"] + 1e-8)
        _, pullback = jax.vjp(jax.nn.softmax, before.logits)
        np.testing.assert_allclose(
            after.logits, before.logits - 0.1 * (pullback(fall)[0] + 0.01 * before.logits), rtol=1e-10
        )

        def total(losses):
            excess, z = losses + 1e-8, jax.nn.softmax(after.logits)
            return jnp.sum(jnp.log(excess) * z / jax.lax.stop_gradient(jnp.sum(z / excess)))

        np.testing.assert_allclose(after.weights, jax.grad(total)(jnp.asarray(given["losses"])), rtol=1e-10)


# --- One battery over every method -----------------------------------------------------------------------------------

HARD = [1e-8, 1.0, 1e8, 0.0]


def hard_history():
    """Every triple of extreme losses, with gradients that are zero, equal, opposite, tiny and huge."""
    losses = np.array(np.meshgrid(HARD, HARD, HARD)).reshape(3, -1).T
    steps = len(losses)
    scale = np.array([0.0, 1.0, 1e-12, 1e8, 1e16])[np.arange(steps) % 5]
    pattern = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 1.0, 1.0]])[np.arange(steps) // 5 % 3]
    factors = (scale[:, None] * pattern)[..., None]
    gradients = {name: np.tile(factors, math.prod(shape)).reshape(steps, 3, *shape) for name, shape in SHAPES.items()}
    return jax.tree.map(
        np.float32,
        {
            "losses": losses,
            "gradient_norms": np.abs(factors[..., 0]),
            "task_gradients": gradients,
            "losses_after": np.roll(losses, 3, axis=0),
        },
    )


def variants(name):
    """The method by its defaults, and with another rule or parametrization where it has one."""
    yield get(name)
    if name in (*LEARNERS, "gwgl"):
        yield get(name, optimizer=optax.sgd(1.0))
    if name == "gradnorm":
        yield get(name, parametrization="softmax", alpha=0.0)
    if name == "dwa":
        yield get(name, window=2, temperature=0.1)
    if name == "stch":
        yield get(name, mu=0.01)
        yield get(name, mu=100.0, warmup_epochs=0)
    if name == "excess_mtl":
        yield get(name, step_size=10.0, warmup_steps=0, total=1.0)


@pytest.mark.parametrize("name", loss_balancing.METHODS)
def test_finite_at_extremes(name):
    for transform in variants(name):  # "excess_mtl" ends with the one whose total is 1
        weights, states = run(transform, name, hard_history())
        assert np.isfinite(weights).all()
        assert (np.asarray(weights) >= 0).all()
        finite = jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), states)
        if name == "excess_mtl":  # what is promised of squares beyond float32 is that the rest is finite
            finite = finite._replace(squares=True)
        assert all(jax.tree.leaves(finite)), finite
    sums = {"dwa": 3, "ewdw": 3, "gradnorm": 3, "famo": 1, "random": 1, "adamt": 1, "excess_mtl": 1}
    if name in sums:
        np.testing.assert_allclose(weights.sum(axis=1), sums[name], rtol=1e-5)


def test_the_range_of_float32_is_not_left():
    """Losses of which quotients and products are beyond it; every method that divides or multiplies them."""
    losses = np.array([[1e-30, 1e30, 1.0], [1e30, 1e-30, 1e30], [1e-38, 1e38, 1e-38], [1.0, 1.0, 1.0]], np.float32)
    history = {"losses": losses[[0, 1, 2, 3, 2, 0, 1]], "gradient_norms": np.full((7, 3), 1e30, np.float32)}
    history["losses_after"] = history["losses"][::-1]
    for name, options in (
        ("dwa", {"temperature": 0.1, "steps_per_epoch": 1}),
        ("dwa", {"temperature": 0.1, "window": 1}),
        ("stch", {"steps_per_epoch": 1}),
        *((name, {}) for name in ("scale_invariant", "geometric", "uncertainty", "imtl_l", "gradnorm", "famo")),
    ):
        weights, states = run(get(name, **options), name, history)
        assert np.isfinite(weights).all(), name
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states)), name


@pytest.mark.parametrize("name", ["scale_invariant", "geometric", "stch", "gwgl"])
def test_a_loss_of_zero_or_below_is_left_out(name):
    options = {"warmup_epochs": 1} if name == "stch" else {}
    history = make_history(4, steps=5, dtype=np.float32)
    history["losses"][3:, 1], history["losses"][4:, 2] = 0.0, -1.0
    weights, _ = run(get(name, **options), name, history)
    assert (weights[3, [0, 2, 3]] > 0).all()
    np.testing.assert_array_equal(weights[4, [1, 2]], 0)
    if name == "geometric":
        np.testing.assert_allclose(weights[4, [0, 3]], geometric_weights(history["losses"][4, [0, 3]]), rtol=1e-5)


def test_degenerate_inputs_do_what_the_docstrings_say():
    ones, losses = jnp.ones(3), jnp.array([1.0, 2.0, 3.0])
    # AdaMT: zero gradients, equal weights. GradNorm: a zero gradient keeps its weight but for the scaling.
    t = get("adamt")
    np.testing.assert_allclose(t.update(ones, t.init(ones), losses, gradient_norms=0 * ones)[0], 1 / 3, rtol=1e-6)
    t = get("gradnorm", optimizer=optax.sgd(0.1))
    _, state = t.update(ones, t.init(ones), losses, gradient_norms=jnp.array([0.0, 1.0, 3.0]))
    np.testing.assert_allclose(state.learned, 3 * np.array([1, 1.1, 0.7]) / 2.8, rtol=1e-6)
    # ExcessMTL: h(1) of a task is its first that is not zero.
    t = loss_balancing.excess_mtl(step_size=1.0, parameters=jnp.zeros(1))
    state = t.init(ones)
    for gradients in ([[0.0], [1.0], [1.0]], [[5.0], [0.0], [1.0]]):
        weights, state = t.update(ones, state, losses, task_gradients=jnp.array(gradients))
    np.testing.assert_allclose(state.initial, [5, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(weights, 3 * softmax(np.array([1, 0, 1 / math.sqrt(2)])), rtol=1e-5)
    # FAMO: a loss below its minimum counts as the minimum.
    t = get("famo", min_losses=(0.5, 0.5, 0.5))
    below, _ = t.update(ones, t.init(ones), jnp.array([0.4, 1.0, 2.0]), losses_after=ones)
    at_minimum, _ = t.update(ones, t.init(ones), jnp.array([0.5, 1.0, 2.0]), losses_after=ones)
    np.testing.assert_array_equal(below, at_minimum)


@pytest.mark.parametrize("name", ["uncertainty", "imtl_l"])
def test_scales_stay_in_range_when_a_loss_stays_at_zero(name):
    transform = get(name, optimizer=optax.sgd(10.0))
    history = {"losses": np.zeros((40, 2), np.float32)}
    weights, states = run(transform, name, history)
    np.testing.assert_array_equal(jnp.abs(states.scales[-1]), 50)
    assert np.isfinite(weights).all()
    assert float(weights[-1, 0]) > 1e20


@pytest.mark.parametrize("name", sorted(set(loss_balancing.METHODS) - {"random", "constant"}))
def test_permutation_equivariance(name):
    history = make_history(3, dtype=np.float32)
    order = np.array([2, 0, 1])
    permuted = jax.tree.map(lambda x: x[:, order], history)
    weights, _ = run(default(name), name, history)
    np.testing.assert_allclose(run(default(name), name, permuted)[0], weights[:, order], rtol=1e-5)


@pytest.mark.parametrize("name", loss_balancing.METHODS)
def test_resumes_bit_for_bit_from_every_step_compiled_once(name):
    """Donated states too, whose leaves must be arrays of their own. The scan gives the same."""
    transform = default(name)
    history = make_history(3, dtype=np.float32)
    step = jax.jit(feed(transform, name), donate_argnums=0)
    states, weights = [jax.device_get(transform.init(jnp.zeros(3)))], []
    state = transform.init(jnp.zeros(3))
    leaves = jax.tree.leaves(state)
    assert len({id(leaf) for leaf in leaves}) == len(leaves)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    for t in range(8):
        given, state = step(state, at(history, t))
        weights.append(np.array(given))
        states.append(jax.tree.map(np.array, state))
    for start in range(1, 8):
        state = jax.tree.map(jnp.array, states[start])
        for t in range(start, 8):
            given, state = step(state, at(history, t))
            np.testing.assert_array_equal(given, weights[t])
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), states[8])
    np.testing.assert_allclose(weights, run(transform, name, history)[0][:8], rtol=1e-5)
    assert step._cache_size() == 1
    dtypes = [[leaf.dtype for leaf in jax.tree.leaves(state)] for state in states]
    assert all(row == dtypes[0] for row in dtypes)


@pytest.mark.parametrize("name", loss_balancing.METHODS)
def test_vmap_is_one_by_one(name):
    transform = default(name)
    first, second = (make_history(3, seed=seed, dtype=np.float32) for seed in (0, 1))
    many, _ = jax.vmap(lambda history: run(transform, name, history))(
        jax.tree.map(lambda *x: np.stack(x), first, second)
    )
    for given, history in zip(many, (first, second), strict=True):
        np.testing.assert_allclose(given, run(transform, name, history)[0], rtol=1e-5)


@pytest.mark.parametrize("name", loss_balancing.METHODS)
def test_float64_in_float64_kept(name):
    with jax.enable_x64(True):
        weights, states = run(get(name), name, make_history(3))
        assert weights.dtype == jnp.float64
        kinds = {leaf.dtype.name for leaf in jax.tree.leaves(states)}
        assert kinds <= {"float64", "int32"}


# --- Chains, lifts, mistakes -----------------------------------------------------------------------------------------


def test_chains_multiply_and_gradnorm_balances_what_comes_in():
    history = make_history(3, dtype=np.float32)
    weights, states = run(default("gwgl"), "gwgl", history)
    geometric, learned = states
    np.testing.assert_allclose(weights, geometric.weights * learned.weights, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(weighting.weights)(states), weights, rtol=1e-6)
    alone = {**history, "gradient_norms": history["gradient_norms"] * np.asarray(geometric.weights)}
    np.testing.assert_allclose(run(default("gradnorm"), "gradnorm", alone)[0], learned.weights, rtol=1e-5)


def test_a_chain_gets_all_that_its_members_need():
    needs = frozenset({"gradient_norms", "task_gradients", "losses_after"})
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    balancing = LossBalancing(
        lambda shared: optax.chain(loss_balancing.excess_mtl(parameters=shared), get("famo"), get("adamt")), needs
    )
    lifted = weighting.linear_combination(balancing, num_tasks=3)
    given = at(make_history(3, dtype=np.float32), 0)
    _, state = lifted.update(
        given["task_gradients"], lifted.init(params), losses=given["losses"], losses_after=given["losses_after"]
    )
    excess, famo, adamt = state
    np.testing.assert_allclose(weighting.weights(state), excess.weights * famo.weights * adamt.weights, rtol=1e-6)


def network_losses(params, x):
    features = jnp.tanh(x @ params["encoder"]["kernel"] + params["encoder"]["bias"][None])
    return jnp.stack([jnp.mean((features @ head - k) ** 2) for k, head in enumerate(params["heads"])])


losses_of = jax.jit(network_losses)
task_gradients_of = jax.jit(jax.jacrev(network_losses))
gradient_of_weighted = jax.jit(jax.grad(lambda params, x, weights: network_losses(params, x) @ weights))


def is_encoder(path):
    return path.startswith("encoder")


@pytest.mark.parametrize("name", loss_balancing.METHODS)
def test_the_lift_is_the_gradient_of_the_weighted_losses(name):
    """Over encoder and heads; AdaMT looks at the norms of what is not shared."""
    rng = np.random.default_rng(0)
    params = {"encoder": {"kernel": rng.normal(size=(4, 5)), "bias": rng.normal(size=5)}}
    params["heads"] = [rng.normal(size=(5, 2)) for _ in range(3)]
    params = jax.tree.map(jnp.float32, params)
    x = jnp.float32(rng.normal(size=(6, 4)))
    weigh = weighting.get(name, num_tasks=3, shared=is_encoder, **OPTIONS.get(name, {}))
    optimizer = optax.chain(weigh, optax.scale(-0.05))
    update = jax.jit(optimizer.update)

    state, after = optimizer.init(params), jnp.full(3, 123.0, jnp.float32)
    for _ in range(3):
        losses, task_grads = losses_of(params, x), task_gradients_of(params, x)
        updates, state = update(task_grads, state, params, losses=losses, losses_after=after)
        weighted = gradient_of_weighted(params, x, weighting.weights(state))
        jax.tree.map(lambda u, w: np.testing.assert_allclose(u, -0.05 * w, rtol=2e-4, atol=1e-6), updates, weighted)
        params = optax.apply_updates(params, updates)
        after = losses_of(params, x)
        if name == "adamt":
            norms = [np.linalg.norm(head[k]) for k, head in enumerate(task_grads["heads"])]
            norms = np.array(norms)
            np.testing.assert_allclose(weighting.weights(state), norms / norms.sum(), rtol=1e-5)
    assert update._cache_size() == 1
    if name == "excess_mtl":
        assert {path: leaf.shape for path, leaf in state[0].squares.items()} == {
            "encoder/bias": (3, 5),
            "encoder/kernel": (3, 4, 5),
        }


def test_the_lift_hands_the_losses_after_on():
    lifted = weighting.get("famo", num_tasks=2, gamma=0.0, optimizer=optax.sgd(1.0))
    state = lifted.init(jnp.zeros(3))
    for after in ([5.0, 5.0], [0.9, 1.9]):
        _, state = lifted.update(J, state, losses=jnp.array([1.0, 2.0]), losses_after=jnp.array(after))
    np.testing.assert_allclose(state.logits, [-0.013517, 0.013517], atol=1e-6)
    with pytest.raises(ValueError, match="famo: update needs losses_after"):
        lifted.update(J, state, losses=jnp.array([1.0, 2.0]))


@pytest.mark.parametrize("name", ["adamt", "gradnorm", "gwgl", "dwa"])
def test_gradients_spread_over_devices_weigh_as_the_whole(name):
    rng = np.random.default_rng(0)
    gradients = jnp.float32(rng.normal(size=(3, 8)))
    losses = jnp.array([1.0, 2.0, 3.0])
    whole, spread = (weighting.get(name, num_tasks=3, axis_name=axis, **OPTIONS.get(name, {})) for axis in (None, "d"))

    def two_steps(t, g):
        state = t.init(jnp.zeros(g.shape[1:]))
        for scale in (1.0, 0.5):
            combined, state = t.update(scale * g, state, losses=scale * losses)
        return combined, weighting.weights(state)

    expected, weights = jax.jit(functools.partial(two_steps, whole))(gradients)
    parts = gradients.reshape(3, 4, 2).swapaxes(0, 1)
    combined, by_part = jax.jit(jax.vmap(functools.partial(two_steps, spread), axis_name="d"))(parts)
    np.testing.assert_allclose(combined.reshape(-1), expected, rtol=1e-5)
    np.testing.assert_allclose(by_part, np.tile(weights, (4, 1)), rtol=1e-5)


def test_the_lift_keeps_float64_and_combines_bfloat16_in_float32():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        gradients = rng.normal(size=(3, 8))
        lifted = weighting.get("scale_invariant", num_tasks=3)
        losses = np.array([0.3, 7.0, 0.011])
        combined, _ = lifted.update(jnp.array(gradients), lifted.init(jnp.zeros(8)), losses=jnp.array(losses))
        np.testing.assert_allclose(combined, (1 / losses) @ gradients, rtol=1e-13)
    narrow = jnp.array([[1.0], [2.0**-9], [-1.0]], jnp.bfloat16)  # the sum is lost in bfloat16
    lifted = weighting.get("equal", num_tasks=3)
    combined, _ = lifted.update(narrow, lifted.init(jnp.zeros(1, jnp.bfloat16)), losses=jnp.ones(3))
    assert combined.dtype == jnp.bfloat16
    assert float(combined[0]) == 2.0**-9


@pytest.mark.parametrize("name", loss_balancing.METHODS)
def test_what_is_needed_is_declared_and_its_lack_named(name):
    transform = get(name)
    state = transform.init(jnp.zeros(3))
    given = at(make_history(3, dtype=np.float32), 0)
    losses = given.pop("losses")
    assert loss_balancing.needs(name) <= set(given)
    needed = {key: given[key] for key in loss_balancing.needs(name)}
    alone, _ = transform.update(jnp.ones(3), state, losses, **needed)
    everything, _ = transform.update(jnp.ones(3), state, losses, **given)
    np.testing.assert_array_equal(alone, everything)
    for key in needed:
        with pytest.raises(ValueError, match=rf"{name}: update needs {key}"):
            transform.update(jnp.ones(3), state, losses)


def test_only_what_weighs_keeps_the_cotangents_dtype():
    transform = get("geometric")
    weights, state = transform.update(jnp.ones(3, jnp.bfloat16), transform.init(jnp.zeros(3)), jnp.ones(3))
    assert weights.dtype == jnp.bfloat16
    assert state.weights.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dwa", {"window": 0}, "dwa: window"),
        ("uncertainty", {"kinds": ("regression", "segmentation")}, "uncertainty: kinds is 'segmentation'"),
        ("uncertainty", {"initial": -60.0}, "uncertainty: initial"),
        ("imtl_l", {"initial": float("nan")}, "imtl_l: initial"),
        ("gradnorm", {"parametrization": "log"}, "gradnorm: parametrization is 'log'"),
        ("gradnorm", {"initial_losses": (1.0, 0.0)}, "gradnorm: initial_losses"),
        ("gwgl", {"initial_losses": (1.0, -1.0)}, "gradnorm: initial_losses"),
        ("stch", {"mu": 0.0}, "stch: mu"),
        ("stch", {"steps_per_epoch": 0}, "stch: steps_per_epoch"),
        ("stch", {"warmup_epochs": -1}, "stch: warmup_epochs"),
        ("stch", {"nadir_epochs": 5, "steps_per_epoch": 1}, "stch: nadir_epochs is 5"),
        ("famo", {"learning_rate": 0.0}, "famo: learning_rate must be positive"),
        ("imtl_l", {"learning_rate": float("nan")}, "imtl_l: learning_rate must be positive"),
        ("gwgl", {"norms_of": "all"}, "gwgl: norms_of is 'all': choose from last_shared"),
        ("famo", {"gamma": -1.0}, "famo: gamma"),
        ("excess_mtl", {"step_size": 0.0}, "excess_mtl: step_size"),
        ("excess_mtl", {"total": 0.0}, "excess_mtl: total"),
        ("excess_mtl", {"warmup_steps": 2}, "excess_mtl: warmup_steps"),
        ("adamt", {"alpha": 1.0}, "alpha"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        weighting.get(name, num_tasks=2, **options)


def test_wrong_counts_and_shapes_are_named():
    for name, option, values in (
        ("uncertainty", "kinds", ("regression",) * 2),
        ("gradnorm", "initial_losses", (1.0, 2.0)),
        ("famo", "min_losses", (0.0, 0.0)),
    ):
        with pytest.raises(ValueError, match=f"{name}: 2 {option} given for 3 tasks"):
            get(name, **{option: values}).init(jnp.zeros(3))
    with pytest.raises(ValueError, match="excess_mtl: init needs the shapes of the gradients"):
        loss_balancing.excess_mtl().init(jnp.zeros(2))
    t = get("excess_mtl")
    with pytest.raises(ValueError, match="do not match the parameters"):
        t.update(jnp.ones(3), t.init(jnp.zeros(3)), jnp.ones(3), task_gradients={"a": jnp.ones((3, 2))})
    with pytest.raises(ValueError, match=r"excess_mtl: axis_name is 'd', but the method keeps"):
        weighting.get("excess_mtl", num_tasks=2, axis_name="d")
    with pytest.raises(ValueError, match="no parameter is shared"):
        weighting.get("adamt", num_tasks=2, shared=lambda path: False).init({"w": jnp.zeros(3)})
    t = weighting.get("gradnorm", num_tasks=2, last_shared=lambda path: False)
    state = t.init({"w": jnp.zeros(3)})
    with pytest.raises(ValueError, match="no parameter is measured: the predicate `last_shared`"):
        t.update({"w": J}, state, losses=jnp.ones(2))
