"""Steps without labels for some task: every method, in both forms, holds its state and its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.batches import assert_close
from jax.sharding import PartitionSpec

from mtlflax import weighting
from mtlflax.training import parallel
from mtlflax.weighting import loss_balancing, present

K = 3
NAMES = weighting.names()
OPTIONS = {"constant": {"weights": (0.5, 2.0, 1.0)}, **{n: {"steps_per_epoch": 1} for n in ("dwa", "ewdw", "stch")}}
SHAPES = {"encoder": (4,), "head": (K,)}
ABSENT = np.array([True, False, True])


def step(seed, tasks=(True,) * K):
    """Losses, gradients and the rest of a step; what belongs to absent tasks is NaN, as a mean over nothing is."""
    rng = np.random.default_rng(seed)
    tasks = np.array(tasks)
    grads = {"encoder": rng.normal(size=(K, 4)), "head": np.diag(rng.normal(size=K))}
    losses = np.exp(rng.normal(size=K))
    blank = jax.tree.map(lambda x: np.where(tasks.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan), (grads, losses))
    grads, losses = jax.tree.map(jnp.float32, blank)
    return grads, losses, jnp.float32(np.exp(rng.normal(size=K)))


def make(name, **options):
    return weighting.get(name, num_tasks=K, shared=lambda path: path == "encoder", **OPTIONS.get(name, {}), **options)


def updated(transform):
    @jax.jit
    def update(state, grads, losses, after, tasks):
        return transform.update(grads, state, losses=losses, losses_after=after, present=tasks)

    return update


def expected_direction(state, grads, losses, tasks, name):
    """The present tasks by the weights that the state holds; a head gets its own task's gradient."""
    held = weighting.weights(state)
    held = np.ones(K) if held is None else np.asarray(held, np.float64)
    own = held if name in loss_balancing.METHODS else np.ones(K)
    if name == "db_mtl":  # whose gradients are those of log L
        own = 1 / (np.nan_to_num(np.asarray(losses, np.float64)) + 1e-8)
    clean = jax.tree.map(lambda g: np.nan_to_num(np.asarray(g, np.float64)), grads)
    return {"encoder": (held * tasks) @ clean["encoder"], "head": (own * tasks) @ clean["head"]}


@pytest.mark.parametrize("name", NAMES)
def test_every_method_holds_state_and_weights(name):
    transform = make(name)
    update = updated(transform)
    state = transform.init({path: jnp.zeros(shape) for path, shape in SHAPES.items()})
    everything, everyone = np.ones(K, bool), jnp.ones(K, bool)
    for seed in range(4):  # incomplete steps before the first complete one, and after some
        for tasks in (ABSENT, ~ABSENT, ~everything):
            grads, losses, after = step(seed + 10, tasks)
            direction, kept = update(state, grads, losses, after, tasks)
            jax.tree.map(np.testing.assert_array_equal, kept, state)
            wanted = expected_direction(state, grads, losses, tasks, name)
            for path, values in direction.items():
                np.testing.assert_allclose(values, wanted[path], rtol=2e-5, atol=1e-6)
        grads, losses, after = step(seed)
        direction, complete = update(kept, grads, losses, after, everyone)
        plain, plain_state = jax.jit(transform.update)(grads, state, losses=losses, losses_after=after)
        # Another program, which may round a sum of products differently.
        assert_close((direction, complete), (plain, plain_state), rtol=1e-6, atol=1e-7)
        if seed == 0 and name not in ("constant", "graddrop"):  # given weights; none
            np.testing.assert_array_equal(weighting.weights(state), 1)
        state = complete


@pytest.mark.parametrize("name", loss_balancing.METHODS)
def test_every_loss_balancing_holds_in_loss_space(name):
    options = {"parameters": {"w": jnp.zeros(4)}} if name == "excess_mtl" else OPTIONS.get(name, {})
    transform = loss_balancing.METHODS[name](**options)

    @jax.jit
    def update(state, seed_losses, after, grads, tasks):
        given = {"gradient_norms": jnp.linalg.norm(grads, axis=1), "task_gradients": {"w": grads}}
        extra = {**given, "losses_after": after, "present": tasks}
        return transform.update(2 * jnp.ones(K), state, seed_losses, **extra)

    state = transform.init(jnp.zeros(K))
    for seed in range(3):
        grads, losses, after = step(seed)
        grads = grads["encoder"]
        before = weighting.weights(state)
        held, kept = update(state, losses.at[1].set(0), after, grads.at[1].set(0), jnp.array(ABSENT))
        np.testing.assert_array_equal(held, np.where(ABSENT, 2 * before, 0))
        jax.tree.map(np.testing.assert_array_equal, kept, state)
        given, state = update(kept, losses, after, grads, jnp.ones(K, bool))
        np.testing.assert_allclose(given, 2 * weighting.weights(state), rtol=1e-6)


def test_a_chain_of_ones_own_is_held_as_a_whole():
    chain = optax.chain(loss_balancing.geometric(), loss_balancing.dwa(steps_per_epoch=1))
    lifted = weighting.linear_combination(chain, num_tasks=K)
    state = lifted.init(jnp.zeros(4))
    for seed in range(3):
        grads, losses, _ = step(seed)
        _, state = lifted.update(grads["encoder"], state, losses=losses, present=[True] * K)
    held, kept = lifted.update(grads["encoder"], state, losses=losses, present=ABSENT)
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    np.testing.assert_allclose(held, (weighting.weights(state) * ABSENT) @ grads["encoder"], rtol=1e-5)


@pytest.mark.parametrize("name", [n for n in weighting.gradient_balancing.METHODS if n not in ("db_mtl", "moco")])
def test_coordinates_on_four_devices(name):
    """Under shard_map, each device with a part of the coordinates: as on one device, and on the next complete step."""
    spread, whole = (make(name, axis_name=axis) for axis in (parallel.AXIS, None))

    def run(transform, grads):
        def update(state, given):
            taken, tasks = given
            direction, state = transform.update(taken, state, losses=jnp.arange(1.0, K + 1), present=tasks)
            return state, direction["encoder"]

        state = transform.init(jax.tree.map(lambda g: g[0, 0], grads))
        return jax.lax.scan(update, state, (grads, jnp.array([[True] * K, ABSENT, [True] * K])))[1]

    grads = {"encoder": jnp.stack([step(seed)[0]["encoder"] for seed in range(3)])}
    spec = PartitionSpec(None, None, parallel.AXIS)
    mapped = jax.shard_map(
        lambda g: run(spread, g),
        mesh=parallel.make_mesh(4),
        in_specs=spec,
        out_specs=PartitionSpec(None, parallel.AXIS),
        check_vma=False,
    )
    got, expected = jax.jit(mapped)(grads), jax.jit(lambda g: run(whole, g))(grads)
    if name == "graddrop":  # each device draws for its own coordinates; without weights, the present ones are added
        got, expected = got[1:2], expected[1:2]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_the_weights_are_what_multiplies_the_gradients_of_a_step():
    """DB-MTL averages, and MoCo tracks, something else: their weights are brought to the gradients as they are."""
    grads, losses, _ = step(0)
    grads = grads["encoder"]
    t = weighting.get("db_mtl", num_tasks=K, beta=0.0)
    direction, state = t.update(grads, t.init(jnp.zeros(4)), losses=losses)
    np.testing.assert_allclose(weighting.weights(state) @ grads, direction, rtol=1e-5, atol=1e-6)
    t = weighting.get("moco", num_tasks=K, beta=1.0, beta_sigma=0.0)
    direction, state = t.update(grads, t.init(jnp.zeros(4)), losses=losses)
    np.testing.assert_allclose(weighting.weights(state) @ grads, direction, rtol=1e-5, atol=1e-6)
    lengths = np.linalg.norm(grads, axis=1)
    np.testing.assert_allclose(weighting.weights(state), state.inner.point * losses / lengths, rtol=1e-5)


def test_samples_count_for_tasks_and_completeness():
    tasks, complete = present.split([[True, False], [True, True], [False, False]], 3)
    assert tasks.tolist() == [True, True, False]
    assert not complete
    with pytest.raises(ValueError, match=r"present of shape \(3,\), one for each task, got shape \(2,\)"):
        present.split([True, False], 3)
    t = weighting.get("modo", num_tasks=2)
    state = t.init(jnp.zeros(4))
    g = step(0)[0]["encoder"][:2]
    held, kept = t.update(g, state, present=[[True, True], [True, False]], independent=(g, g))
    np.testing.assert_allclose(held, g.sum(axis=0), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, kept, state)
