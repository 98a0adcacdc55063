"""How the step takes its gradient: against gradients taken one by one, counted, and on several devices."""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax.core import FrozenDict
from helpers.batches import assert_close, make_batch
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

from mtlflax import tasks, weighting
from mtlflax.errors import UserError
from mtlflax.training import parallel, trunk
from mtlflax.training.step import init_state, make_train_step
from mtlflax.weighting.spec import LEVELS

SAMPLED = [name for name, factory in weighting.METHODS.items() if factory.spec.samples]


@functools.cache
def equal_run():
    return train(make_method("equal"))


@pytest.mark.parametrize("name", sorted(set(weighting.gradient_balancing.METHODS) - set(SAMPLED)))
def test_the_step_is_the_method_applied_to_gradients_taken_one_by_one(name):
    balancing = make_method(name, POINT_NET, 3)
    state, batch = make_state(balancing, POINT_NET, 3), make_batch(0, size=SIZE)
    losses, gradients = task_gradients(state.params, {}, batch, POINT_NET, POINT_TASKS)
    transform = weighting.get(name, num_tasks=3, shared=POINT_NET.shared)
    given = {"losses": losses}
    check_step(balancing, transform, given, gradients, batch, losses, state, POINT_NET, POINT_TASKS)


@pytest.mark.parametrize("name", SAMPLED)
def test_independent_samples_are_of_the_halves_of_the_batch(name):
    balancing = make_method(name, POINT_NET, 3)
    state, batch = make_state(balancing, POINT_NET, 3), make_batch(0, size=SIZE)
    halves = [task_gradients(state.params, {}, batch, POINT_NET, POINT_TASKS, (i, 2)) for i in range(2)]
    losses, mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    transform = weighting.get(name, num_tasks=3, shared=POINT_NET.shared)
    given = {"independent": [gradients for _, gradients in halves]}
    check_step(balancing, transform, given, mean, batch, losses, state, POINT_NET, POINT_TASKS)

    assert make_method(name, POINT_NET, 3, independent=False).samples == 0
    mesh, step = make_step(balancing, model=POINT_NET, chosen=POINT_TASKS)
    with pytest.raises(UserError, match="batch_size"):
        step(state, parallel.shard_batch({k: v[:5] for k, v in batch.items()}, mesh))
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


class PointNet(nn.Module):
    """A layer for all and one for each task, pixel by pixel and without BatchNorm: compiles in no time."""

    heads: Mapping[str, int]

    def setup(self):
        self.encoder = nn.Dense(6)
        for task, channels in self.heads.items():
            setattr(self, f"decoder_{task}", nn.Dense(channels))

    def __call__(self, images, train=False):
        return {task: self.decode(self.encode(images), task) for task in self.heads}

    def encode(self, images, train=False):
        return nn.tanh(self.encoder(images))

    def decode(self, features, task, train=False, *, size=None):
        return getattr(self, f"decoder_{task}")(features)

    @nn.nowrap
    def shared(self, path):
        return path.startswith("encoder")


def colour_task(channel):
    """To tell one colour of the image below: nothing a network would be needed for."""

    def loss(prediction, batch, axis_name):
        error = (prediction[..., 0] - batch["image"][:, ::-1, :, channel] / 255.0) ** 2
        mean = jnp.mean(error) * 3.0**channel
        return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

    fields = dict.fromkeys(("sums", "metrics", "picture", "truth", "colours"), lambda *_: {})

    def valid(batch):
        return jnp.ones(batch["image"].shape[:3], bool)

    return tasks.Task(f"colour{channel}", 1, lambda x: x, loss, valid, **fields)


POINT_TASKS = tuple(colour_task(i) for i in range(3))
POINT_NET = PointNet(FrozenDict({task.name: 1 for task in POINT_TASKS}))
LEVELS_OF = [(name, level) for name in weighting.gradient_balancing.METHODS for level in LEVELS]
LEVELS_OF.remove(("graddrop", "representation"))  # each device draws for its own features: another update, and as good
OPTIONS = {
    "constant": {"weights": (1.0, 2.0, 3.0)},
    **{name: {"steps_per_epoch": 1} for name in ("dwa", "ewdw", "stch")},
}
EVERY_METHOD = [*((name, None) for name in weighting.loss_balancing.METHODS), *LEVELS_OF]


@pytest.mark.parametrize(("name", "level"), EVERY_METHOD)
def test_four_devices_take_the_steps_of_one_for_every_method(name, level):
    options = OPTIONS.get(name, {})
    if level is None:
        method = make_method(name, POINT_NET, 3, **options)
    elif level == "representation" and name in ("db_mtl", "moco"):
        with pytest.raises(ValueError, match="keeps gradients"):
            make_method(name, POINT_NET, 3, level=level)
        return
    else:
        method = make_method(name, POINT_NET, 3, level=level)
    states, histories = [], []
    for num_devices in (1, 4):
        mesh = parallel.make_mesh(num_devices)
        optimizer = optax.sgd(0.02)
        step = make_train_step(POINT_NET, POINT_TASKS, optimizer, method)
        mapped = parallel.map_step(step, mesh, out_specs=(parallel.REPLICATED, parallel.REPLICATED))
        state = init_state(POINT_NET, optimizer, method, num_tasks=3, size=(4, 8), seed=0)
        state = jax.device_put(state, parallel.replicated(mesh))
        history = []
        for i in range(5):
            state, metrics = mapped(state, parallel.shard_batch(make_batch(i, size=(4, 8)), mesh))
            history.append(jax.device_get(metrics))
        states.append(jax.device_get(state))
        histories.append(history)
    assert_close(histories[1], histories[0], rtol=1e-4, atol=1e-5)
    assert_close(states[1].params, states[0].params, rtol=1e-4, atol=1e-5)
    assert_close(states[1].weighting, states[0].weighting, rtol=1e-4, atol=1e-5)
