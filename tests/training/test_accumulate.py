"""A batch seen in parts: the losses, the gradient and the method's state are those of the whole batch."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from helpers.batches import assert_close, make_batch
from helpers.points import POINT_NET, POINT_TASKS, point_batch
from helpers.steps import HEADS, MODEL, TASKS, make_method, make_state

from mtlflax import weighting
from mtlflax.training import parallel
from mtlflax.training.accumulate import in_parts
from mtlflax.training.step import make_train_step, normalize

OPTIMIZER = optax.sgd(0.05)
EPOCHS = [name for name, f in weighting.METHODS.items() if "steps_per_epoch" in weighting.options(f)]


def steps(method, model, chosen, batches, devices=1, parts=1):
    """Train on some batches; return the state, and the metrics of each step."""
    mesh = parallel.make_mesh(devices)
    step = make_train_step(in_parts(model, parts), chosen, OPTIMIZER, method)
    mapped = parallel.map_step(step, mesh)
    state = jax.device_put(make_state(method, model, len(chosen), OPTIMIZER), parallel.replicated(mesh))
    metrics = []
    for batch in batches:
        state, of_step = mapped(state, parallel.shard_batch(batch, mesh))
        metrics.append(jax.device_get(of_step))
    return jax.device_get(state), metrics


@pytest.mark.parametrize("name", weighting.names())
def test_every_method_makes_the_update_of_the_whole_batch(name):
    """Over three steps, one without labels of a task."""
    options = {"steps_per_epoch": 2} if name in EPOCHS else {}
    method = make_method(name, POINT_NET, 3, **options)
    batches = [point_batch(i, absent=absent) for i, absent in enumerate(((), (1,), ()))]
    whole, expected = steps(method, POINT_NET, POINT_TASKS, batches)
    parted, found = steps(method, POINT_NET, POINT_TASKS, batches, parts=2)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert_close(parted, whole, rtol=1e-4, atol=1e-5)


def test_on_four_devices_it_is_the_same_as_on_one():
    """BatchNorm's statistics included: the parts are the same frames."""
    method = make_method("equal", MODEL)
    batches = [make_batch(i) for i in range(2)]
    one, _ = steps(method, MODEL, TASKS, batches, devices=1, parts=2)
    four, _ = steps(method, MODEL, TASKS, batches, devices=4, parts=2)
    assert_close(four, one, rtol=1e-3, atol=1e-4)


def test_batch_norm_sees_the_parts_one_after_another():
    batch = make_batch(0)
    method = make_method("equal", MODEL)
    state, _ = steps(method, MODEL, TASKS, [batch], parts=2)
    plain = MODEL.clone(axis_name=None)
    first = make_state(method, MODEL, 2, OPTIMIZER)
    stats = first.batch_stats
    for part in range(2):
        images = normalize(batch["image"][part::2])
        _, updated = plain.apply({"params": first.params, "batch_stats": stats}, images, True, mutable=["batch_stats"])
        stats = updated["batch_stats"]
    assert_close(state.batch_stats, stats, rtol=1e-5, atol=1e-6)


class Deep(nn.Module):
    """Few parameters and many activations."""

    heads: Mapping[str, int]
    axis_name: str | None = None

    def setup(self):
        self.layers = [nn.Conv(16, (3, 3), name=f"encoder_{i}") for i in range(8)]
        for task, channels in self.heads.items():
            setattr(self, f"decoder_{task}", nn.Conv(channels, (1, 1)))

    def __call__(self, images, train=False):
        features = self.encode(images, train)
        return {task: self.decode(features, task) for task in self.heads}

    def encode(self, x, train=False):
        for layer in self.layers:
            x = nn.tanh(layer(x))
        return x

    def decode(self, features, task, train=False, *, size=None):
        return getattr(self, f"decoder_{task}")(features)

    @nn.nowrap
    def shared(self, path):
        return path.startswith("encoder")


@pytest.mark.parametrize(("name", "most"), [("equal", 0.3), ("cagrad", 0.4)])
def test_it_takes_the_memory_of_a_part(name, most):
    """Of temporary buffers in the compiled step, at batch 8 in four parts; of a split trunk, all features stay."""
    model, mesh = Deep(HEADS), parallel.make_mesh(1)
    method = make_method(name, model)
    state = jax.eval_shape(lambda: make_state(method, model))
    batch = jax.tree.map(jnp.asarray, make_batch(0))

    def memory(parts):
        step = parallel.map_step(make_train_step(in_parts(model, parts), TASKS, OPTIMIZER, method), mesh)
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    assert memory(4) < most * memory(1)
