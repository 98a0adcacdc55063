"""A small network with a trunk, its train step, and gradients taken one by one to compare with."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax.core import FrozenDict
from helpers.batches import FIELDS, assert_close, make_batch
from helpers.tiny import SplitNet

from mtlflax import tasks, weighting
from mtlflax.training import gradients, parallel
from mtlflax.training.step import init_state, make_train_step, normalize

SIZE = (32, 64)


TASKS = (tasks.segmentation(FIELDS), tasks.depth(FIELDS))


HEADS = FrozenDict({task.name: task.channels for task in TASKS})


MODEL = SplitNet(HEADS, axis_name=parallel.AXIS)


OPTIMIZER = optax.sgd(0.05, momentum=0.9)


def make_method(name, model=MODEL, num_tasks=2, **options):
    return gradients.make_method(name, model, num_tasks=num_tasks, **options)


def make_state(method, model=MODEL, num_tasks=2, optimizer=OPTIMIZER):
    return jax.jit(lambda: init_state(model, optimizer, method, num_tasks=num_tasks, size=SIZE, seed=0))()


def make_step(method, num_devices=1, via="shard_map", model=MODEL, chosen=TASKS, optimizer=OPTIMIZER):
    mesh = parallel.make_mesh(num_devices)
    step = make_train_step(model, chosen, optimizer, method)
    return mesh, parallel.map_step(step, mesh, via=via, out_specs=(parallel.REPLICATED, parallel.REPLICATED))


def train(method, num_devices=1, via="shard_map", steps=3, model=MODEL):
    mesh, step = make_step(method, num_devices, via, model)
    state = jax.device_put(make_state(method, model), parallel.replicated(mesh))
    history = []
    for i in range(steps):
        state, metrics = step(state, parallel.shard_batch(make_batch(i), mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


@functools.partial(jax.jit, static_argnames=("model", "chosen", "rows"))
def task_gradients(params, batch_stats, batch, model=MODEL, chosen=TASKS, rows=(0, 1)):
    """The losses over frames rows[0], rows[0] + rows[1], … and the gradients of all parameters, a task at a time."""

    def loss(params, task):
        variables = {"params": params, "batch_stats": batch_stats}
        plain = model.clone(axis_name=None) if hasattr(model, "axis_name") else model
        outputs, _ = plain.apply(variables, normalize(batch["image"]), train=True, mutable=["batch_stats"])
        taken = slice(rows[0], None, rows[1])
        return task.loss(task.activation(outputs[task.name])[taken], {k: v[taken] for k, v in batch.items()}, None)

    taken = [jax.value_and_grad(loss)(params, task) for task in chosen]
    return jnp.stack([value for value, _ in taken]), jax.tree.map(lambda *g: jnp.stack(g), *[g for _, g in taken])


def check_step(balancing, transform, given, gradients, batch, losses, state, model, chosen):
    """The step's update is the transform's direction of gradients taken one by one."""
    expected, expected_state = transform.update(gradients, transform.init(state.params), state.params, **given)
    mesh, step = make_step(balancing, model=model, chosen=chosen)
    after, metrics = step(state, parallel.shard_batch(batch, mesh))
    taken = jax.tree.map(lambda a, b: (a - b) / 0.05, state.params, after.params)
    scale = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(expected))
    assert_close(metrics["losses"], losses, rtol=1e-5, atol=1e-6)
    assert_close(taken, expected, rtol=1e-3, atol=1e-4 * scale)
    assert_close(metrics["task_gradient_norms"], weighting.geometry(expected_state).norms, rtol=1e-4, atol=0)
    assert_close(metrics["cosines"], weighting.geometry(expected_state).cosines, rtol=0, atol=1e-4)
