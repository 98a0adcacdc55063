"""One battery over every weighting method, as a transformation of stacked task gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from mtlflax import weighting
from mtlflax.training import parallel

K, N, STEPS = 3, 6, 4
NAMES = weighting.names()
OPTIONS = {
    "dwa": {"steps_per_epoch": 2},
    "ewdw": {"steps_per_epoch": 2},
    "sdmgrad": {"learning_rate": 1.0},  # with its 10 rounding decides where it ends, as its docstring says
    "stch": {"warmup_epochs": 2, "steps_per_epoch": 1},
}
# What the order of the tasks, or chance, has a part in.
DRAWN = {"graddrop", "gradvac", "pcgrad", "random"}
# A common factor on all gradients, the losses staying, is a power of itself on the direction: 1 but for these, whose
# weights take it back.
POWERS = {"fairgrad": 0, "moco": 0, "nash_mtl": 0}
LOSSES = np.array([0.7, 1.3, 2.1], np.float32)


def make(name, num_tasks=K, **options):
    own = {"weights": (1.0,) * num_tasks} if name == "constant" else OPTIONS.get(name, {})
    return weighting.get(name, num_tasks=num_tasks, **own, **options)


def update_with(transform):
    """(task gradients, state, losses) → (direction, state), the losses having fallen somehow where that matters."""

    def update(task_gradients, state, losses):
        return transform.update(task_gradients, state, losses=losses, losses_after=losses * (0.9 - 0.1 / (1 + losses)))

    return update


traces: list[tuple[str, int]] = []  # one entry each time that an update is traced, to be compiled


@functools.cache
def compiled(name, num_tasks=K):
    transform = make(name, num_tasks)

    def update(*args):
        traces.append((name, num_tasks))
        return update_with(transform)(*args)

    return transform, jax.jit(update)


def random_gradients(seed, num_tasks=K):
    """Unit normal, with a common part."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num_tasks, N)) + 0.3).astype(np.float32)


def run(name, gradients, losses=LOSSES, steps=STEPS, through=lambda state: state):
    """The directions [steps, N] of several updates, each with other gradients and losses, and the last state."""
    transform, update = compiled(name, len(gradients))
    state = transform.init(jnp.zeros(N))
    directions = []
    for step in range(steps):
        direction, state = update(gradients * np.float32(1 + step % 3), through(state), losses / np.float32(1 + step))
        directions.append(np.asarray(direction))
    return np.stack(directions), state


def assert_finite(*trees):
    for leaf in jax.tree.leaves(trees):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DRAWN])
def test_the_order_of_the_tasks_does_not_matter(name):
    gradients, order = random_gradients(0), np.array([2, 0, 1])
    directions, state = run(name, gradients)
    reordered, reordered_state = run(name, gradients[order], LOSSES[order])
    np.testing.assert_allclose(reordered, directions, rtol=1e-3, atol=1e-5)
    if (weights := weighting.weights(state)) is not None:
        np.testing.assert_allclose(weighting.weights(reordered_state), weights[order], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "modo"])  # whose step size is absolute
def test_a_factor_on_all_gradients(name):
    directions, _ = run(name, random_gradients(1))
    scaled, _ = run(name, 64 * random_gradients(1))
    expected = directions * 64.0 ** POWERS.get(name, 1)
    np.testing.assert_allclose(scaled, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())


DEGENERATE = {
    "one is zero": lambda g: g * np.array([[0], [1], [1]], np.float32),
    "all are zero": np.zeros_like,
    "all are equal": lambda g: g[:1].repeat(K, axis=0),
    "two are opposite": lambda g: np.stack([g[0], -g[0], g[1]]),
    "all in one line": lambda g: g[:1] * np.array([[1], [-2], [3]], np.float32),
    "sizes far apart": lambda g: g * np.array([[1e-8], [1], [1e8]], np.float32),
    "all tiny": lambda g: g * np.float32(1e-15),
    "all huge": lambda g: g * np.float32(1e15),
}


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_gradients_give_finite_directions(name):
    for case, change in DEGENERATE.items():
        directions, state = run(name, change(random_gradients(2)))
        assert_finite(directions, state)
        if case == "all are zero":
            assert not directions.any()


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_any_size_give_finite_directions(name):
    for losses in ([1e-8, 1, 1e8], [1e8, 1e8, 1e-8], [0, 1, 2], [0, 0, 0], [1e-8, 1e-8, 1e-8]):
        assert_finite(*run(name, random_gradients(3), np.array(losses, np.float32)))


@pytest.mark.parametrize("name", NAMES)
def test_it_repeats_resumes_and_compiles_once(name):
    """Bit for bit, the state going through NumPy between any two updates, as through a checkpoint."""
    compiled.cache_clear()
    before = len(traces)
    directions, state = run(name, random_gradients(4))
    again, again_state = run(name, random_gradients(4), through=lambda s: jax.tree.map(jnp.asarray, jax.device_get(s)))
    np.testing.assert_array_equal(directions, again)
    jax.tree.map(np.testing.assert_array_equal, state, again_state)
    assert len(traces) == before + 1
    leaves = jax.tree.leaves(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert len({id(leaf) for leaf in jax.tree.leaves(compiled(name)[0].init(jnp.zeros(N)))}) == len(leaves)


@pytest.mark.parametrize("name", NAMES)
def test_structure_and_dtypes_are_those_of_the_parameters(name):
    """Of bfloat16 gradients the direction is computed in float32 and rounded once."""
    shapes = {"encoder": {"kernel": (3, 2), "scale": ()}, "head": (5,)}
    rng = np.random.default_rng(5)
    params = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda x: isinstance(x, tuple))
    params["head"] = params["head"].astype(jnp.bfloat16)
    grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=(K, *p.shape)), p.dtype), params)
    transform = make(name)
    update = update_with(transform)
    direction, state = update(grads, transform.init(params), jnp.array(LOSSES))
    assert jax.tree.structure(direction) == jax.tree.structure(params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), direction) == jax.tree.map(lambda x: (x.shape, x.dtype), params)

    def in_float32(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    wide, wide_state = update(in_float32(grads), transform.init(in_float32(params)), jnp.array(LOSSES))
    rounded = jax.tree.map(lambda x, p: x.astype(p.dtype), wide, params)
    jax.tree.map(np.testing.assert_array_equal, direction, rounded)
    jax.tree.map(np.testing.assert_array_equal, state, wide_state)


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_in_a_chain_under_vmap_scan_and_a_shard_map_that_checks(name):
    """On each of four devices two problems at once: the losses fall, by the directions that `jit` gives.

    The default shard_map tells what differs between devices from what does not, and wants loops to keep to that.
    """
    transform, update = compiled(name)
    rate, starts, targets = 0.02, random_gradients(10, 8), 2 * random_gradients(11)
    optimizer = optax.chain(make(name), optax.sgd(rate))

    def loss_and_gradients(point):
        return jnp.sum((point[None] - targets) ** 2, axis=1), 2 * (point[None] - targets)

    def train(point):  # [N] → the losses [20, K] and points [20, N] before each update
        def step(carry, _):
            point, state = carry
            losses, gradients = loss_and_gradients(point)
            after = losses * (0.9 - 0.1 / (1 + losses))
            updates, state = optimizer.update(gradients, state, point, losses=losses, losses_after=after)
            return (optax.apply_updates(point, updates), state), (losses, point)

        state = jax.lax.pcast(optimizer.init(jnp.zeros(N)), parallel.AXIS, to="varying")
        return jax.lax.scan(step, (point, state), length=20)[1]

    spec = PartitionSpec(parallel.AXIS)
    mapped = jax.shard_map(jax.vmap(train), mesh=parallel.make_mesh(4), in_specs=spec, out_specs=spec)
    losses, points = jax.device_get(jax.jit(mapped)(starts))
    assert (losses[:, -1].sum(-1) < losses[:, 0].sum(-1)).all()
    for problem in (0, 7):
        state = transform.init(jnp.zeros(N))
        for step in range(4):
            of_tasks, gradients = loss_and_gradients(points[problem, step])
            direction, state = update(np.asarray(gradients), state, np.asarray(of_tasks))
            taken = (points[problem, step] - points[problem, step + 1]) / rate
            np.testing.assert_allclose(taken, direction, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_eight_tasks(name):
    losses = np.linspace(0.5, 4, 8, dtype=np.float32)
    directions, state = run(name, random_gradients(6, num_tasks=8), losses)
    assert_finite(directions, state)
    assert np.abs(directions).max() > 1e-3
    if (weights := weighting.weights(state)) is not None:
        assert weights.shape == (8,)
    if name in weighting.gradient_balancing.METHODS:
        measured = weighting.geometry(state)
        assert measured.norms.shape == (8,)
        assert measured.cosines.shape == (8, 8)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_calls_back_to_the_host(name):
    transform, update = compiled(name)
    traced = jax.make_jaxpr(update)(random_gradients(0), transform.init(jnp.zeros(N)), LOSSES)
    assert "callback" not in str(traced)


@pytest.mark.parametrize("name", weighting.gradient_balancing.METHODS)
def test_what_is_not_shared_gets_its_own_tasks_gradient(name):
    shared, own = random_gradients(7), np.diag([1.0, 2.0, 3.0]).astype(np.float32)
    transform = make(name, shared=lambda path: path.startswith("encoder"))
    params = {"decoder": jnp.zeros(K), "encoder": jnp.zeros(N)}
    grads = {"decoder": own, "encoder": shared}
    direction, _ = update_with(transform)(grads, transform.init(params), jnp.array(LOSSES))
    np.testing.assert_allclose(direction["encoder"], run(name, shared, steps=1)[0][0], rtol=1e-4, atol=1e-5)
    factor = 1 / LOSSES if name == "db_mtl" else 1.0  # whose gradients are those of log L
    np.testing.assert_allclose(direction["decoder"], np.array([1, 2, 3]) * factor, rtol=1e-4)
