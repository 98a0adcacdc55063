"""One step, any number of devices: the same update, by either mapping."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.batches import FIELDS, SIZE, assert_close, make_batch
from helpers.tiny import TinyNet

from mtlflax import models, tasks
from mtlflax.training import parallel
from mtlflax.training.gradients import make_method
from mtlflax.training.step import init_state, make_evaluation_step, make_train_step

STEPS = 5


def make_parts(segmentation_loss: str, depth_loss: str, network: str):
    chosen = (tasks.segmentation(FIELDS, loss=segmentation_loss), tasks.depth(FIELDS, loss=depth_loss))
    heads = {task.name: task.channels for task in chosen}
    if network == "tiny":
        model = TinyNet(heads, axis_name=parallel.AXIS)
    else:
        options = {"head_stride": 2, "axis_name": parallel.AXIS, "dtype": jnp.float64}
        model = models.get(network, backbone="resnet18", heads=heads, **options)
    balancing = make_method("dwa", model, num_tasks=2, steps_per_epoch=1)
    return chosen, model, optax.sgd(0.05, momentum=0.9), balancing


def make_state(model, optimizer, balancing, mesh, size=SIZE):
    def init():
        state = init_state(model, optimizer, balancing, num_tasks=2, size=size, seed=0)
        if not jax.config.jax_enable_x64:
            return state
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)
        return wide.replace(weighting=state.weighting)  # losses and weights are float32 always

    return jax.jit(init, out_shardings=parallel.replicated(mesh))()


def train(num_devices: int, via: str, losses: tuple[str, str], network: str = "tiny", size=SIZE):
    """Five steps; returns the final state and the history of the metrics."""
    chosen, model, optimizer, balancing = make_parts(*losses, network)
    mesh = parallel.make_mesh(num_devices)
    step = parallel.map_step(
        make_train_step(model, chosen, optimizer, balancing),
        mesh,
        via=via,
        out_specs=(parallel.REPLICATED, parallel.REPLICATED),
        donate_state=True,
    )
    state = make_state(model, optimizer, balancing, mesh, size)
    history = []
    for i in range(STEPS):
        state, metrics = step(state, parallel.shard_batch(make_batch(i, size=size), mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


@functools.cache
def one_device(losses: tuple[str, str]):
    return train(1, "shard_map", losses)


@pytest.mark.parametrize(
    "losses",
    [("cross_entropy", "l1"), ("dice", "berhu"), ("dice", "silog"), ("cross_entropy", "l2")],
)
@pytest.mark.parametrize("via", parallel.MAPPINGS)
def test_four_devices_take_the_steps_of_one(via, losses):
    one, history_one = one_device(losses)
    four, history_four = train(4, via, losses)
    assert int(one.step) == int(four.step) == STEPS
    assert_close(history_one, history_four, rtol=1e-5, atol=1e-5)
    # An array rounds as its largest value does: silog's first gradient has a norm of 150 and takes parameters to 9, so
    # those near 0 differ by the last bits of a 9, up to 1.2e-5 on some CPUs.
    for leaf, other in zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params), strict=True):
        assert_close(leaf, other, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(leaf).max())))
    assert_close(one.batch_stats, four.batch_stats, rtol=1e-5, atol=1e-5)
    assert_close(one.weighting, four.weighting, rtol=1e-5, atol=1e-5)


@pytest.mark.slow  # compiles the real network three times
def test_four_devices_train_the_unet_as_one():
    """In float64 inside the network: in float32 its many BatchNorms amplify the last bits to 1e-3."""
    losses, size = ("cross_entropy", "l1"), (64, 128)
    with jax.enable_x64(True):
        one, history_one = train(1, "shard_map", losses, "unet", size)
        for via in parallel.MAPPINGS:
            four, history_four = train(4, via, losses, "unet", size)
            assert_close(history_one, history_four, rtol=1e-5, atol=1e-5)
            assert_close(one.params, four.params, rtol=1e-5, atol=1e-5)


def test_the_step_compiles_once_and_repeats_its_bits():
    counts = []

    def listener(event, *_, **__):
        if "backend_compile" in event:
            counts.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    chosen, model, optimizer, balancing = make_parts("cross_entropy", "l1", "tiny")
    mesh = parallel.make_mesh(4)
    step = parallel.map_step(
        make_train_step(model, chosen, optimizer, balancing),
        mesh,
        out_specs=(parallel.REPLICATED, parallel.REPLICATED),
        donate_state=True,
    )

    def run():
        state = make_state(model, optimizer, balancing, mesh)
        after = []
        for i in range(STEPS):
            state, _ = step(state, parallel.shard_batch(make_batch(i), mesh))
            after.append(len(counts))
        return jax.device_get(state), after

    first, after = run()
    assert after[0] == after[-1] > 0  # nothing is compiled after the first step
    second, _ = run()
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_one_backward_pass_whatever_the_weighting():
    """A loss balancing costs the FLOPs of equal weights, up to the few on K numbers."""
    chosen, model, optimizer, _ = make_parts("cross_entropy", "l1", "tiny")
    mesh = parallel.make_mesh(1)
    flops = {}
    for name in ("equal", "dwa"):
        balancing = make_method(name, model, num_tasks=2, **({"steps_per_epoch": 1} if name == "dwa" else {}))
        step = parallel.map_step(
            make_train_step(model, chosen, optimizer, balancing),
            mesh,
            out_specs=(parallel.REPLICATED, parallel.REPLICATED),
        )
        state = make_state(model, optimizer, balancing, mesh)
        batch = parallel.shard_batch(make_batch(0), mesh)
        flops[name] = step.lower(state, batch).compile().cost_analysis()["flops"]
    assert flops["dwa"] == pytest.approx(flops["equal"], rel=1e-4)


def test_the_sums_of_a_frame_do_not_depend_on_devices_or_on_the_frames_beside_it():
    chosen, model, optimizer, balancing = make_parts("cross_entropy", "l1", "tiny")
    batch = make_batch(0)
    padded = {**batch, "frame": np.arange(8, dtype=np.int32), "mask": np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)}
    half = {key: value[:5] for key, value in padded.items()}
    results = {}
    for devices, via, given in [
        (1, "shard_map", half),
        (4, "shard_map", padded),
        (4, "pmap", padded),
    ]:
        mesh = parallel.make_mesh(devices)
        step = parallel.map_step(
            make_evaluation_step(model, chosen),
            mesh,
            via=via,
            out_specs=(parallel.REPLICATED, parallel.SHARDED, parallel.SHARDED),
        )
        state = make_state(model, optimizer, balancing, mesh)
        (frames, sums), pictures, _ = step(state, parallel.shard_batch(given, mesh))
        np.testing.assert_array_equal(frames, given["frame"])
        rows = parallel.local_rows(pictures["segmentation"])[:5]
        results[devices, via] = (jax.device_get(sums), rows)
    sums, rows = results[1, "shard_map"]
    confusion = sums["segmentation"]["confusion"]
    assert (confusion.sum((1, 2)) > 0).all()
    for other, other_rows in results.values():
        np.testing.assert_array_equal(confusion, other["segmentation"]["confusion"][:5])
        assert not other["segmentation"]["confusion"][5:].any()
        assert not other["depth"]["count"][5:].any()
        assert_close(sums["depth"], {key: x[:5] for key, x in other["depth"].items()}, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(rows, other_rows)


def test_an_unknown_mapping_is_an_error():
    with pytest.raises(ValueError, match="shard_map, pmap"):
        parallel.map_step(lambda state, batch: state, parallel.make_mesh(1), via="vmap")
