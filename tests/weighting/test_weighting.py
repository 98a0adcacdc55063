"""The weighting maths: goldens, both forms, composition, resume."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtlflax import weighting
from mtlflax.weighting import loss_balancing

J = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], np.float32)
OPTIONS = {
    "constant": {"weights": (1.0, 2.0, 3.0)},
    **{name: {"steps_per_epoch": 2} for name in ("dwa", "ewdw", "stch")},
}


def run(transform, history, **extra):
    """Feeds a history of losses; returns the weights of each update and the last state."""
    state = transform.init(jnp.zeros(len(history[0])))
    weights = []
    for losses in history:
        given, state = transform.update(jnp.ones(len(losses)), state, jnp.array(losses, jnp.float32), **extra)
        weights.append(np.asarray(given))
    return np.stack(weights), state


def test_constant_golden():
    combined = weighting.get("constant", num_tasks=2, weights=(1.0, 2.0))
    params = {"w": jnp.zeros(3)}
    gradient, _ = combined.update({"w": J}, combined.init(params), params, losses=jnp.ones(2))
    np.testing.assert_allclose(gradient["w"], [8, 3, 3], atol=1e-4)


def test_equal_is_the_sum_golden():
    combined = weighting.get("equal", num_tasks=2)
    params = {"w": jnp.zeros(3)}
    gradient, _ = combined.update({"w": J}, combined.init(params), params, losses=jnp.ones(2))
    np.testing.assert_allclose(gradient["w"], [2, 2, 2], atol=1e-4)


def test_dwa_golden():
    weights, _ = run(loss_balancing.dwa(steps_per_epoch=1), [[1, 1], [1, 4], [9, 9]])
    np.testing.assert_allclose(weights[:2], 1)
    np.testing.assert_allclose(weights[2], [0.36485, 1.63515], atol=1e-5)


def numpy_dwa(history, temperature, steps_per_epoch):
    """The formula, straight from the paper, in float64."""
    history = np.array(history, np.float64)
    weights = []
    for step in range(len(history)):
        epoch = step // steps_per_epoch
        if epoch < 2:
            weights.append(np.ones(history.shape[1]))
            continue
        last, before = (
            history[e * steps_per_epoch : (e + 1) * steps_per_epoch].mean(axis=0) for e in (epoch - 1, epoch - 2)
        )
        exponent = np.exp(last / before / temperature)
        weights.append(history.shape[1] * exponent / exponent.sum())
    return np.stack(weights)


@pytest.mark.parametrize("num_tasks", [2, 3, 5, 8])
@pytest.mark.parametrize("steps_per_epoch", [1, 3])
def test_dwa_equals_its_formula(num_tasks, steps_per_epoch):
    rng = np.random.default_rng(num_tasks)
    history = np.exp(rng.normal(size=(11, num_tasks)))
    transform = loss_balancing.dwa(temperature=1.5, steps_per_epoch=steps_per_epoch)
    weights, state = run(transform, history)
    np.testing.assert_allclose(weights, numpy_dwa(history, 1.5, steps_per_epoch), rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(weighting.weights(state), weights[-1])


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_dwa_is_finite_for_extreme_and_zero_losses(scale):
    history = [[scale, 1.0, 0.0], [1.0, scale, 0.0], [scale, scale, 1.0], [0.0, 1e30, 1.0], [1.0, 1.0, 1.0]]
    weights, _ = run(loss_balancing.dwa(steps_per_epoch=1), history)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(axis=1), 3, rtol=1e-5)


@pytest.mark.parametrize("name", loss_balancing.METHODS)
def test_both_forms_agree_and_the_state_resumes(name):
    """Stacked gradients get Σ w_k g_k with the loss-space weights, from every intermediate state alike."""
    rng = np.random.default_rng(0)
    history = np.exp(rng.normal(size=(7, 3))).astype(np.float32)
    params = {"a": jnp.zeros((4, 2)), "b": {"c": jnp.zeros((), jnp.bfloat16)}}
    task_grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=(3, *p.shape)), p.dtype), params)
    wide = jax.tree.map(lambda g: g.astype(jnp.float32), task_grads)
    given = {
        "gradient_norms": jnp.sqrt(sum(jnp.sum(g.reshape(3, -1) ** 2, axis=1) for g in jax.tree.leaves(wide))),
        "task_gradients": task_grads,
        "losses_after": jnp.ones(3),
    }
    options = {"parameters": params} if name == "excess_mtl" else OPTIONS.get(name, {})
    extra = {key: given[key] for key in loss_balancing.needs(name)}
    weights, _ = run(loss_balancing.METHODS[name](**options), history, **extra)

    lifted = weighting.get(name, num_tasks=3, **OPTIONS.get(name, {}))
    after = jnp.ones(3)
    update = jax.jit(lambda state, losses: lifted.update(task_grads, state, params, losses=losses, losses_after=after))
    state = lifted.init(params)
    for expected, losses in zip(weights, history, strict=True):
        state = jax.tree.map(jnp.asarray, jax.device_get(state))  # as through a checkpoint
        gradients, state = update(state, losses)
        np.testing.assert_allclose(gradients["a"], np.tensordot(expected, task_grads["a"], 1), rtol=1e-4, atol=1e-5)
        assert gradients["b"]["c"].dtype == jnp.bfloat16
        np.testing.assert_allclose(weighting.weights(state), expected, rtol=1e-5)
    assert update._cache_size() == 1


def test_chained_weightings_multiply():
    chain = optax.chain(loss_balancing.constant((1.0, 2.0)), loss_balancing.constant((3.0, 5.0)))
    weights, state = run(chain, [[1.0, 1.0]])
    np.testing.assert_allclose(weights[0], [3, 10])
    np.testing.assert_allclose(weighting.weights(state), [3, 10])
    lifted = weighting.linear_combination(chain, num_tasks=2)
    np.testing.assert_allclose(weighting.weights((optax.adam(1.0).init(J), lifted.init(J))), [3, 10])


def test_weights_of_a_state_without_any_is_none():
    assert weighting.weights(optax.adam(1e-3).init({"w": jnp.zeros(2)})) is None


def test_weights_are_told_from_parameters_of_that_name():
    class Dense(NamedTuple):
        weights: jax.Array
        bias: jax.Array

    params = Dense(jnp.zeros(2), jnp.zeros(5))
    optimizer = optax.chain(weighting.get("mgda", num_tasks=2), optax.adam(1e-3))
    task_grads = Dense(jnp.eye(2), jnp.zeros((2, 5)))
    _, state = optimizer.update(task_grads, optimizer.init(params), params, losses=jnp.ones(2))
    np.testing.assert_allclose(weighting.weights(state), [0.5, 0.5], atol=1e-6)
    with pytest.raises(TypeError, match="Plain is not a NamedTuple"):
        weighting.has_weights(type("Plain", (), {}))


@pytest.mark.parametrize("name", weighting.names())
def test_losses_and_gradients_are_of_as_many_tasks(name):
    transform = weighting.get(name, num_tasks=3, **OPTIONS.get(name, {}))
    state = transform.init(jnp.zeros(4))
    task_grads = jnp.ones((3, 4))
    for losses in (jnp.ones(()), jnp.ones(1), jnp.ones(4), jnp.ones((3, 1)), [1.0, 2.0]):
        with pytest.raises(ValueError, match=r"losses of shape \(3,\), one for each task"):
            transform.update(task_grads, state, losses=losses, losses_after=jnp.ones(3))
    with pytest.raises(ValueError, match="leading axis of 3 tasks"):
        transform.update(task_grads[:2], state, losses=jnp.ones(3), losses_after=jnp.ones(3))
    given, _ = transform.update(task_grads, state, losses=[1, 2, 3], losses_after=[1.0, 1.0, 1.0])
    assert given.shape == (4,)


@pytest.mark.parametrize("name", loss_balancing.METHODS)
def test_in_loss_space_cotangents_and_losses_are_of_as_many_tasks(name):
    options = {"parameters": jnp.zeros(1)} if name == "excess_mtl" else OPTIONS.get(name, {})
    transform = loss_balancing.METHODS[name](**options)
    given = {"gradient_norms": jnp.ones(3), "task_gradients": jnp.ones((3, 1)), "losses_after": jnp.ones(3)}
    extra = {key: given[key] for key in loss_balancing.needs(name)}
    with pytest.raises(ValueError, match="shape"):
        transform.update(jnp.ones((3, 1)), transform.init(jnp.zeros(3)), jnp.ones(3), **extra)


@pytest.mark.parametrize("name", ["db_mtl", "moco"])
def test_a_state_made_of_stacked_gradients_is_refused(name):
    transform = weighting.get(name, num_tasks=2)
    with pytest.raises(ValueError, match=f"{name}: .*give init the parameters, without a task axis"):
        transform.update(J, transform.init(J), losses=jnp.ones(2))


@pytest.mark.parametrize("max_norm", [None, float("inf")])
def test_nash_of_any_length(max_norm):
    transform = weighting.get("nash_mtl", num_tasks=2, max_norm=max_norm)
    direction, _ = transform.update(J, transform.init(J[0]))
    np.testing.assert_allclose(np.sum(np.square(direction)), 2, rtol=1e-4)  # K
    direction, _ = transform.update(0 * J, transform.init(J[0]))
    np.testing.assert_array_equal(direction, 0)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"choose from .*dwa"):
        weighting.get("dwaa", num_tasks=2)
    with pytest.raises(ValueError, match="temprature"):
        weighting.get("dwa", num_tasks=2, temprature=1.0)
    with pytest.raises(ValueError, match="2 weights given for 3 tasks"):
        weighting.get("constant", num_tasks=3, weights=(1.0, 2.0)).init(J)
    with pytest.raises(ValueError, match="positive"):
        loss_balancing.dwa(temperature=0.0, steps_per_epoch=1)
    for number in (46.875, 0, "2"):
        with pytest.raises(ValueError, match="steps_per_epoch must be a whole number"):
            loss_balancing.dwa(steps_per_epoch=number)
    for alpha in (float("inf"), float("nan"), "a", jnp.ones(())):
        with pytest.raises(ValueError, match="cagrad: alpha"):
            weighting.get("cagrad", num_tasks=2, alpha=alpha)
    for name in ("aligned_mtl", "dualproj", "sdmgrad", "upgrad"):
        for preference in ((1.0, -1.0), ("a", "b"), (1.0,)):
            with pytest.raises(ValueError, match=f"{name}: .*preference"):
                weighting.get(name, num_tasks=2, preference=preference)
    for name in set(weighting.names()) - {"constant"}:
        for number in (0, 2.0):
            with pytest.raises(ValueError, match="num_tasks must be a whole number"):
                weighting.get(name, num_tasks=number, **OPTIONS.get(name, {}))
    three = weighting.get("equal", num_tasks=3)
    with pytest.raises(ValueError, match="leading axis of 3"):
        three.update({"w": J}, three.init(None), losses=jnp.ones(3))
