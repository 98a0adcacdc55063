"""How the step takes its gradient: against gradients taken one by one, counted, and on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.batches import assert_close, make_batch
from helpers.points import POINT_NET, POINT_TASKS, point_batch
from helpers.steps import (
    HEADS,
    MODEL,
    SIZE,
    TASKS,
    check_step,
    make_method,
    make_state,
    make_step,
    task_gradients,
    train,
)
from helpers.tiny import TinyNet

from mtlflax import weighting
from mtlflax.errors import UserError
from mtlflax.training import parallel, trunk
from mtlflax.weighting.spec import LEVELS

SAMPLED = [name for name, factory in weighting.METHODS.items() if factory.spec.samples]


@functools.cache
def equal_run():
    return train(make_method("equal"))


@pytest.mark.parametrize("name", weighting.names())
def test_the_step_is_weighting_get_on_gradients_taken_one_by_one(name):
    """On four devices, over several steps, one of them without labels of a task: the update, and the method's state.

    Independent samples are halves of the batch.
    """
    options, optimizer = OPTIONS.get(name, {}), optax.sgd(0.05)
    method = make_method(name, POINT_NET, 3, **options)
    transform = weighting.get(name, num_tasks=3, shared=POINT_NET.shared, last_shared=POINT_NET.last_shared, **options)
    mesh, step = make_step(method, 4, model=POINT_NET, chosen=POINT_TASKS, optimizer=optimizer)
    state, after = make_state(method, POINT_NET, 3, optimizer), jnp.zeros(3)
    on_devices = jax.device_put(state, parallel.replicated(mesh))
    expected = transform.init(state.params)
    update = jax.jit(transform.update)
    for i, absent in enumerate(((), (), (1,), ())):
        batch = point_batch(i, absent=absent)
        take = functools.partial(task_gradients, state.params, {}, model=POINT_NET, chosen=POINT_TASKS)
        given = {"losses_after": after, "present": jnp.array([task not in absent for task in range(3)])}
        if method.samples:
            halves = [take(batch, rows=(i, 2)) for i in range(2)]
            losses, gradients = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
            given["independent"] = [half for _, half in halves]
        else:
            losses, gradients = take(batch)
        direction, expected = update(gradients, expected, state.params, losses=losses, **given)
        on_devices, metrics = step(on_devices, parallel.shard_batch(batch, mesh))
        before, state = state, jax.device_get(on_devices)
        taken = jax.tree.map(lambda a, b: (a - b) / 0.05, before.params, state.params)
        scale = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(direction))
        assert_close(metrics["losses"], losses, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(metrics["present"], given["present"])
        assert_close(taken, direction, rtol=2e-3, atol=2e-4 * scale)
        for ours, theirs in zip(jax.tree.leaves(state.weighting.method), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-5)
        if (weights := weighting.weights(expected)) is not None:
            np.testing.assert_allclose(metrics["weights"], weights, rtol=2e-3, atol=1e-5)
        if absent:
            jax.tree.map(np.testing.assert_array_equal, before.weighting, state.weighting)
        else:
            after, _ = task_gradients(state.params, {}, batch, POINT_NET, POINT_TASKS)
        if "losses_after" in method.spec.needs:  # those of the last complete step's batch, after that step
            np.testing.assert_allclose(state.weighting.losses_after, after, rtol=1e-5)


@pytest.mark.parametrize("name", SAMPLED)
def test_independent_samples_need_a_batch_that_can_be_halved(name):
    assert make_method(name, POINT_NET, 3, independent=False).samples == 0
    method = make_method(name, POINT_NET, 3)
    mesh, step = make_step(method, model=POINT_NET, chosen=POINT_TASKS)
    state = make_state(method, POINT_NET, 3)
    with pytest.raises(UserError, match="batch_size"):
        step(state, parallel.shard_batch(point_batch(0, count=5), mesh))
    with pytest.raises(ValueError, match="no option 'independent'"):
        make_method("mean", independent=True)


def test_gradients_of_a_network_with_batch_statistics_are_those_taken_one_by_one():
    balancing = make_method("mean")
    state, batch = make_state(balancing), make_batch(0)
    losses, gradients = task_gradients(state.params, state.batch_stats, batch)
    transform = weighting.get("mean", num_tasks=len(TASKS), shared=MODEL.shared)
    check_step(balancing, transform, {"losses": losses}, gradients, batch, losses, state, MODEL, TASKS)


@pytest.mark.parametrize("level", LEVELS)
def test_the_sum_of_task_gradients_is_the_step_of_equal_weights(level):
    state, history = train(make_method("sum", level=level))
    expected, expected_history = equal_run()
    assert_close(state.params, expected.params, rtol=1e-4, atol=1e-5)
    assert_close(state.batch_stats, expected.batch_stats, rtol=1e-4, atol=1e-5)
    for got, wanted in zip(history, expected_history, strict=True):
        assert_close({k: got[k] for k in wanted}, wanted, rtol=1e-4, atol=1e-5)


def test_a_network_without_a_trunk_gives_the_same_task_gradients(monkeypatch):
    split, history = train(make_method("mean"))
    monkeypatch.setattr(trunk, "has_trunk", lambda model: False)
    whole, whole_history = train(make_method("mean"))
    assert_close(whole.params, split.params, rtol=1e-4, atol=1e-5)
    assert_close(whole.batch_stats, split.batch_stats, rtol=1e-4, atol=1e-5)
    assert_close(whole_history, history, rtol=1e-4, atol=1e-5)


def test_the_trunk_is_pulled_back_as_often_as_a_method_asks():
    """Counted in the compiled programs, of a trunk that is nearly all convolutions."""
    model = MODEL.clone(width=96)

    def flops(method):
        mesh, step = make_step(method, model=model)
        batch = parallel.shard_batch(make_batch(0), mesh)
        return step.lower(make_state(method, model), batch).compile().cost_analysis()["flops"]

    base = flops(make_method("equal"))
    pullback = trunk_flops(model)
    assert flops(make_method("mean", level="representation")) == pytest.approx(base, abs=0.1 * pullback)
    assert flops(make_method("mean")) == pytest.approx(base + pullback, abs=0.1 * pullback)


def trunk_flops(model, chosen=MODEL.shared):
    """Of one pullback through the trunk, to the chosen parameters."""
    model = model.clone(axis_name=None)
    variables = model.init(jax.random.key(0), jnp.zeros((1, *SIZE, 3)))
    images = jnp.zeros((8, *SIZE, 3))

    def run(params):
        every = {"params": {**variables["params"], **params}, "batch_stats": variables["batch_stats"]}
        return model.apply(every, images, train=True, method="encode", mutable=["batch_stats"])[0]

    def count(function):
        params = {p: x for p, x in variables["params"].items() if chosen(p)}
        return jax.jit(function).lower(params).compile().cost_analysis()["flops"]

    return count(lambda params: jax.vjp(run, params)[1](jax.tree.map(jnp.ones_like, run(params)))) - count(run)


def test_wrong_levels_are_named():
    with pytest.raises(ValueError, match="choose from parameters, representation"):
        make_method("mean", level="features")
    for name in ("db_mtl", "moco"):
        with pytest.raises(ValueError, match=f"{name}: level is 'representation', but the method keeps gradients"):
            make_method(name, level="representation")
    with pytest.raises(ValueError, match="TinyNet has no trunk"):
        make_method("mean", TinyNet(HEADS), level="representation")


OPTIONS = {
    "constant": {"weights": (1.0, 2.0, 3.0)},
    **{name: {"steps_per_epoch": 1} for name in ("dwa", "ewdw", "stch")},
}
# What each device draws for its own features makes another update, and as good.
OF_FEATURES = sorted(weighting.gradient_balancing.METHODS.keys() - {"graddrop"})


@pytest.mark.parametrize("name", OF_FEATURES)
def test_four_devices_take_the_steps_of_one_on_gradients_of_features(name):
    """One of them without labels of a task: finite, and the method's state untouched."""
    if name in ("db_mtl", "moco"):
        with pytest.raises(ValueError, match="keeps gradients"):
            make_method(name, POINT_NET, 3, level="representation")
        return
    method = make_method(name, POINT_NET, 3, level="representation")
    optimizer = optax.sgd(0.02)
    states, histories = [], []
    for num_devices in (1, 4):
        mesh, step = make_step(method, num_devices, model=POINT_NET, chosen=POINT_TASKS, optimizer=optimizer)
        state = jax.device_put(make_state(method, POINT_NET, 3, optimizer), parallel.replicated(mesh))
        history = []
        for i in range(5):
            absent = (2,) if i == 2 else ()
            before, (state, metrics) = state, step(state, parallel.shard_batch(point_batch(i, absent=absent), mesh))
            history.append(jax.device_get(metrics))
            if absent:
                jax.tree.map(np.testing.assert_array_equal, before.weighting, state.weighting)
                assert metrics["losses"][2] == 0
                assert metrics["present"].tolist() == [True, True, False]
        states.append(jax.device_get(state))
        histories.append(history)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((states, histories)))
    assert_close(histories[1], histories[0], rtol=1e-4, atol=1e-5)
    assert_close(states[1].params, states[0].params, rtol=1e-4, atol=1e-5)
    assert_close(states[1].weighting, states[0].weighting, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["famo", "mgda"])
@pytest.mark.parametrize("via", parallel.MAPPINGS)
def test_frames_without_labels_of_a_task_at_batch_1(name, via):
    """Alternating with complete ones: no weight for the absent task, and the present one keeps its own."""
    optimizer = optax.sgd(0.05)
    method = make_method(name, POINT_NET, 3)
    mesh, step = make_step(method, via=via, model=POINT_NET, chosen=POINT_TASKS, optimizer=optimizer)
    state = make_state(method, POINT_NET, 3, optimizer)
    for i in range(6):
        absent = (2,) if i % 2 else ()
        batch = point_batch(i, absent=absent, count=1)
        before, (state, _) = state, step(state, parallel.shard_batch(batch, mesh))
        if not absent:
            continue
        jax.tree.map(np.testing.assert_array_equal, before.weighting, state.weighting)
        weights = np.asarray(weighting.weights(before.weighting.method))
        assert weights[:2].max() > 0.01
        _, gradients = task_gradients(before.params, {}, batch, POINT_NET, POINT_TASKS)
        kernels = gradients["encoder_last"]["kernel"]
        moved = (before.params["encoder_last"]["kernel"] - state.params["encoder_last"]["kernel"]) / 0.05
        np.testing.assert_allclose(moved, weights[0] * kernels[0] + weights[1] * kernels[1], rtol=1e-3, atol=1e-6)
        own = state.params["decoder_color2"]["kernel"]
        np.testing.assert_array_equal(own, before.params["decoder_color2"]["kernel"])


def test_a_half_without_labels_makes_the_step_incomplete_and_the_loss_that_of_the_other():
    method, optimizer = make_method("modo", POINT_NET, 3), optax.sgd(0.05)
    mesh, step = make_step(method, model=POINT_NET, chosen=POINT_TASKS, optimizer=optimizer)
    state, batch = make_state(method, POINT_NET, 3, optimizer), point_batch(0)
    batch["labelled"][::2, 1] = False  # the first half, every other frame
    after, metrics = step(state, parallel.shard_batch(batch, mesh))
    losses, gradients = task_gradients(state.params, {}, batch, POINT_NET, POINT_TASKS, (1, 2))
    assert metrics["present"].all()
    np.testing.assert_allclose(metrics["losses"][1], losses[1], rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after.weighting, state.weighting)
    moved = (state.params["decoder_color1"]["kernel"] - after.params["decoder_color1"]["kernel"]) / 0.05
    np.testing.assert_allclose(moved, gradients["decoder_color1"]["kernel"][1], rtol=1e-3, atol=1e-6)
