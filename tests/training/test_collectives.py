"""What is sent between devices, counted in the programs: gradients in one all-reduce, whatever the method."""

import jax
import numpy as np
import pytest
from helpers.batches import assert_close, make_batch
from helpers.steps import MODEL, OPTIMIZER, TASKS, make_method, make_state, make_step

from mtlflax.benchmark.compile import collectives
from mtlflax.training import parallel
from mtlflax.training.step import make_train_step

LAYERS = 3  # with BatchNorm
PARAMETERS = 2316


def lowered(name, reduce_dtype=None, **options):
    method = make_method(name, **options)
    mesh = parallel.make_mesh(4)
    step = parallel.map_step(make_train_step(MODEL, TASKS, OPTIMIZER, method, reduce_dtype=reduce_dtype), mesh)
    state = jax.device_put(make_state(method), parallel.replicated(mesh))
    return step.lower(state, parallel.shard_batch(make_batch(0), mesh))


@pytest.mark.parametrize(
    ("name", "options", "gradients"),
    [
        ("equal", {}, 1),
        ("dwa", {"steps_per_epoch": 1}, 1),
        ("cagrad", {}, 2),  # one of all that is sent: the task gradients of the trunk, and the branches'
        ("cagrad", {"level": "representation"}, 1),
        ("gradnorm", {}, 1),
    ],
)
def test_gradients_are_sent_at_once(name, options, gradients):
    """And all else is that of the losses, and of BatchNorm forward and backward."""
    made = lowered(name, **options)
    count, size = made.as_text().count("stablehlo.all_reduce"), 4 * gradients * PARAMETERS
    large = [line for line in made.as_text().splitlines() if f"tensor<{gradients * PARAMETERS}xf32>" in line]
    assert any("-> tensor" in line for line in large)
    of_representation = 2 * 2 if options.get("level") else 0  # the features' products, of all devices
    of_norms = 4 if name == "gradnorm" else 0  # the weights and biases of the layer that it measures, of two tasks
    of_trunk = 1 if gradients == 2 else 0  # the layer with BatchNorm in it is pulled back twice
    assert count <= 1 + 2 * LAYERS + 2 + 2 + 2 + 1 + of_representation + of_norms + of_trunk
    counts, sizes = collectives(made.compile().as_text())
    assert set(counts) == {"all-reduce"}
    assert counts["all-reduce"] <= count
    rest = 8 * 1024  # BatchNorm's moments, and what GradNorm measures
    assert size <= sizes["all-reduce"] <= size + rest


def test_gradients_are_sent_in_half_the_bytes_if_asked():
    text = lowered("equal", reduce_dtype="bfloat16").as_text()
    assert f"tensor<{PARAMETERS}xbf16>" in text
    assert "bf16" not in lowered("equal").as_text()


def test_what_is_rounded_on_the_way_is_near_what_is_not():
    method = make_method("equal")
    mesh, exact = make_step(method, 4)
    rounded = parallel.map_step(make_train_step(MODEL, TASKS, OPTIMIZER, method, reduce_dtype="bfloat16"), mesh)
    state = jax.device_put(make_state(method), parallel.replicated(mesh))
    batch = parallel.shard_batch(make_batch(0), mesh)
    (one, _), (other, _) = exact(state, batch), rounded(state, batch)
    moved, wanted = (
        jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after.params, state.params) for after in (other, one)
    )
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(wanted))
    assert_close(moved, wanted, rtol=0.02, atol=1e-3 * largest)
    differ = [(a != b).any() for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(wanted), strict=True)]
    assert any(differ)
