"""Lengths, angles and weighted sums of stacked gradients: few tasks, by rows, and more, by matrix products."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mtlflax import weighting
from mtlflax.training import parallel
from mtlflax.weighting import measures

SHAPES = ((31, 7), (5,), (), (0, 3))


def drawn(num_tasks, scales=1.0):
    rng = np.random.default_rng(num_tasks)
    scales = np.broadcast_to(scales, num_tasks)
    return [(scales * rng.normal(size=(*shape, num_tasks))).T.astype(np.float32) for shape in SHAPES]


@pytest.mark.parametrize("spread", [0, 30])
@pytest.mark.parametrize("num_tasks", [1, 2, measures.FEW, measures.FEW + 1, 7])
def test_lengths_and_angles_are_those_of_float64(num_tasks, spread):
    leaves = drawn(num_tasks, 10.0 ** np.linspace(-spread, spread, num_tasks))
    rows = np.concatenate([leaf.reshape(num_tasks, -1) for leaf in leaves], axis=1).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    for measured in (measures.geometry(leaves), jax.jit(measures.geometry)(leaves)):
        np.testing.assert_allclose(measured.norms, lengths, rtol=1e-6)
        np.testing.assert_allclose(measured.cosines, (rows @ rows.T) / np.outer(lengths, lengths), atol=1e-6)


@pytest.mark.parametrize("num_tasks", [2, measures.FEW + 1])
@pytest.mark.parametrize("exponent", [-126, 0, 125])  # 2^-126 is the least normal float32; the largest are below 2^128
def test_scaling_is_exact_up_to_the_ends_of_float32(num_tasks, exponent):
    """As its factor is a power of 2: 2² + 3² + 6² = 7², to the last bit."""
    row = np.ldexp(np.float32([2, 3, 6]), exponent)
    measured = measures.geometry([np.stack([row] * num_tasks)])
    np.testing.assert_array_equal(measured.norms, np.ldexp(np.float32(7), exponent))
    np.testing.assert_array_equal(measured.cosines, np.ones((num_tasks, num_tasks)))


@pytest.mark.parametrize("num_tasks", [1, 2, measures.FEW, measures.FEW + 1])
def test_weighted_sums_are_those_of_float64(num_tasks):
    leaves = drawn(num_tasks)
    weights = np.linspace(-1, 2, num_tasks).astype(np.float32)
    for ours, leaf in zip(measures.combine(jnp.asarray(weights), leaves), leaves, strict=True):
        np.testing.assert_allclose(ours, np.tensordot(np.float64(weights), np.float64(leaf), 1), atol=1e-6)


@pytest.mark.parametrize(("num_tasks", "copied"), [(2, False), (measures.FEW, False), (measures.FEW + 1, True)])
def test_gradients_of_few_tasks_are_not_copied_to_be_stacked(num_tasks, copied):
    """They are 94 MB for each task of a ResNet-50, and as much again for each array of that size."""
    transform = weighting.get("pcgrad", num_tasks=num_tasks)
    state = transform.init({"kernel": jnp.zeros((64, 96))})

    def step(gradients, present):
        stacked = {"kernel": jnp.stack(gradients)}
        return transform.update(stacked, state, losses=jnp.ones(num_tasks), present=present)

    gradients = [jnp.ones((64, 96))] * num_tasks
    program = jax.jit(step).lower(gradients, jnp.ones(num_tasks, bool)).compile().as_text()
    entry = program[program.index("\nENTRY") :]
    assert bool(re.search(rf"= f32\[{num_tasks},(64,96|6144)\]", entry)) is copied


@pytest.mark.parametrize("order", [("own", "same"), ("same", "own")])
def test_leaves_may_vary_over_the_devices_or_not(order):
    """In either order, where shard_map checks which do."""
    devices = jax.device_count()
    mesh = parallel.make_mesh(devices)
    own, same = drawn(2)[0], drawn(2)[1]
    owns = np.stack([own * (1 + i) for i in range(devices)])

    def lengths(own, same):
        leaves = {"own": own[0], "same": same}
        return measures.geometry([leaves[name] for name in order]).norms[None]

    specs = (parallel.SHARDED, PartitionSpec())
    measured = jax.jit(jax.shard_map(lengths, mesh=mesh, in_specs=specs, out_specs=parallel.SHARDED))(owns, same)
    for i in range(devices):
        rows = np.concatenate([owns[i].reshape(2, -1), same.reshape(2, -1)], axis=1)
        np.testing.assert_allclose(measured[i], np.linalg.norm(rows, axis=1), rtol=1e-5)
