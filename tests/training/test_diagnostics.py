"""The angles and lengths of the task gradients, measured beside any method: right, and only when asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.points import POINT_NET, POINT_TASKS, point_batch
from helpers.steps import make_method, make_state, task_gradients

from mtlflax.training import diagnostics, parallel


def measured(num_devices, batch, via="shard_map"):
    mesh = parallel.make_mesh(num_devices)
    state = make_state(make_method("equal", POINT_NET, 3), POINT_NET, 3)
    measure = parallel.map_step(diagnostics.make_diagnostics(POINT_NET, POINT_TASKS), mesh, via=via)
    given = jax.device_put(state, parallel.replicated(mesh))
    return state, jax.device_get(measure(given, parallel.shard_batch(batch, mesh)))


@pytest.mark.parametrize(("num_devices", "via"), [(1, "shard_map"), (4, "shard_map"), (4, "pmap")])
def test_they_are_those_of_gradients_taken_one_by_one(num_devices, via):
    batch = point_batch(0)
    state, found = measured(num_devices, batch, via)
    _, gradients = task_gradients(state.params, {}, batch, POINT_NET, POINT_TASKS)
    shared = {name: tree for name, tree in gradients.items() if name.startswith("encoder")}
    J = np.concatenate([np.asarray(x, np.float64).reshape(3, -1) for x in jax.tree.leaves(shared)], axis=1)
    norms = np.linalg.norm(J, axis=1)
    np.testing.assert_allclose(found["norms"], norms, rtol=1e-5)
    np.testing.assert_allclose(found["cosines"], J @ J.T / norms[:, None] / norms[None, :], atol=1e-5)
    figures = diagnostics.figures(["a", "b", "c"], found)
    assert figures["diagnostics/cosine/a/c"] == pytest.approx(float(J[0] @ J[2] / norms[0] / norms[2]), abs=1e-5)
    assert figures["diagnostics/norm/b"] == pytest.approx(norms[1], rel=1e-5)
    assert figures["diagnostics/norm_ratio"] == pytest.approx(norms.max() / norms.min(), rel=1e-5)
    singular = np.linalg.svd(J, compute_uv=False)
    assert figures["diagnostics/condition"] == pytest.approx(singular[0] / singular[-1], rel=1e-3)


def test_nothing_is_said_of_a_step_without_labels_of_a_task():
    _, found = measured(1, point_batch(0, absent=(1,)))
    assert found["present"].tolist() == [True, False, True]
    assert diagnostics.figures(["a", "b", "c"], found) == {}


def test_a_task_without_a_gradient_makes_them_infinite():
    found = {"norms": jnp.array([2.0, 0.0]), "cosines": jnp.eye(2), "present": jnp.ones(2, bool)}
    figures = diagnostics.figures(["a", "b"], jax.device_get(found))
    assert figures["diagnostics/norm_ratio"] == figures["diagnostics/condition"] == np.inf
