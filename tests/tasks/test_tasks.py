"""Tasks beside the built-in ones: surface normals, auxiliary predictions."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers.batches import FIELDS, SIZE, make_batch, make_fields
from helpers.tiny import SplitNet, TinyNet

from configs import three_tasks
from mtlflax import experiment, tasks
from mtlflax.errors import UserError
from mtlflax.training import parallel, trunk
from mtlflax.training.gradients import make_method
from mtlflax.training.step import init_state, make_evaluation_step, make_train_step


@pytest.fixture
def config():
    return three_tasks.get_config("quick")


@pytest.mark.parametrize("unit", ["metres", "disparity"])
def test_normals_of_a_road_and_of_a_wall_ahead(config, unit):
    task = three_tasks.normals(config, make_fields(unit))
    height, width = 64, 128
    v, _ = np.mgrid[:height, :width]
    wall = np.full((height, width), 20.0)
    with np.errstate(divide="ignore"):
        road = np.where(v > height / 2, 1.2 * three_tasks.FOCAL * width / (v - height / 2), 0)
    metres = np.minimum(np.stack([wall, road]), 200).astype(np.float32)[..., None]
    focal_baseline = np.float32(473.6)
    depth = metres if unit == "metres" else np.where(metres > 0, focal_baseline / np.maximum(metres, 1e-3), 0)
    batch = {"depth": depth.astype(np.float32), "focal_baseline": np.full(2, focal_baseline)}
    of_wall, of_road = task.truth(batch)
    known_wall, known_road = (np.any(normal != 0, axis=-1) for normal in (of_wall, of_road))
    np.testing.assert_allclose(of_wall[known_wall], np.tile([0.0, 0, -1], (known_wall.sum(), 1)), atol=1e-4)
    np.testing.assert_allclose(of_road[known_road], np.tile([0.0, -1, 0], (known_road.sum(), 1)), atol=1e-2)
    assert known_wall.sum() == (height - 1) * (width - 1)  # the last row and column have no neighbors
    assert not known_road[: height // 2].any()
    assert known_road.sum() > 1000

    # A perfect prediction has loss and angle 0, one against it 2 and 180°; frames that are padding do not count.
    truth = jnp.asarray(np.stack([of_wall, of_road]))
    for sign, loss, angle in ((1, 0, 0), (-1, 2, 180)):
        np.testing.assert_allclose(task.loss(sign * truth, batch, None), loss, atol=1e-3)
        for mask in ([1.0, 1.0], [1.0, 0.0]):
            sums = jax.device_get(task.sums(sign * truth, {**batch, "mask": np.array(mask)}))
            np.testing.assert_allclose(task.metrics(sums)["mean_angle"], angle, atol=2)
    nothing = {**batch, "depth": 0 * depth}
    assert task.loss(truth, nothing, None) == 0
    assert np.isnan(task.metrics(jax.device_get(task.sums(truth, {**nothing, "mask": np.ones(2)})))["mean_angle"])
    assert task.colors(of_road).dtype == np.uint8


@pytest.mark.parametrize("name", ["dwa", "cagrad"])
def test_three_tasks_train(config, name):
    """On four devices, by a loss weighting and by a gradient balancing: the losses fall, all three."""
    chosen = tasks.from_config(config, FIELDS)
    assert [task.name for task in chosen] == ["segmentation", "depth", "normals"]
    model = SplitNet({task.name: task.channels for task in chosen}, axis_name=parallel.AXIS)
    method = make_method(name, model, num_tasks=3, **({"steps_per_epoch": 1} if name == "dwa" else {}))
    optimizer, mesh = optax.adam(1e-2), parallel.make_mesh(4)
    state = init_state(model, optimizer, method, num_tasks=3, size=SIZE, seed=0)
    out_specs = (parallel.REPLICATED, parallel.REPLICATED)
    step = parallel.map_step(make_train_step(model, chosen, optimizer, method), mesh, out_specs=out_specs)
    rows = np.linspace(0.02, 0.3, SIZE[0], dtype=np.float32)[None, :, None, None]
    batch = make_batch(0) | {"depth": np.tile(rows, (8, 1, SIZE[1], 1))}
    losses = []
    for _ in range(12):
        state, metrics = step(state, parallel.shard_batch(batch, mesh))
        losses.append(np.asarray(metrics["losses"]))
    assert (losses[-1] < losses[0]).all()
    out_specs = (parallel.REPLICATED, parallel.SHARDED, parallel.SHARDED)
    evaluate = parallel.map_step(make_evaluation_step(model, chosen), mesh, out_specs=out_specs)
    (_, sums), _, _ = evaluate(state, parallel.shard_batch(batch | {"frame": np.arange(8)}, mesh))
    totals = {key: x.sum(axis=0) for key, x in jax.device_get(sums["normals"]).items()}
    assert 0 < chosen[2].metrics(totals)["mean_angle"] < 180


def test_tasks_of_ones_own_are_part_of_the_experiment(config):
    built = experiment.build(config)
    assert built.model.heads["normals"] == 3
    config.best.metric = "val/normals/mean_angle"
    experiment.build(config)


class Auxiliary(nn.Module):
    """`TinyNet` with initial predictions, in training."""

    heads: Mapping[str, int]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, train=False):
        net = TinyNet(self.heads, axis_name=self.axis_name, name="net")
        outputs = net(images, train)
        if train:
            outputs |= {f"{task}/aux/initial": 2 * output for task, output in outputs.items()}
        return outputs

    def shared(self, path):
        return "encoder" in path


def test_auxiliary_predictions_add_their_losses(config):
    config.tasks = ("depth", "segmentation")
    batch = make_batch(1)

    def losses(factor):
        config.losses.auxiliary = factor
        chosen = tasks.from_config(config, FIELDS)
        model = Auxiliary({task.name: task.channels for task in chosen})
        images = jnp.asarray(batch["image"], jnp.float32) / 255
        variables = jax.jit(model.init)(jax.random.key(0), images)
        apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
        outputs, _ = apply(variables, images)

        def of_device(params, images, batch):
            return trunk.make_losses(model, chosen)(params, variables["batch_stats"], images, batch)[0]

        mesh = parallel.make_mesh(1)
        spec = jax.sharding.PartitionSpec()
        mapped = jax.shard_map(of_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        return chosen, outputs, jax.jit(mapped)(variables["params"], images, batch)

    chosen, outputs, plain = losses(0.0)
    _, _, with_auxiliary = losses(0.5)
    for i, task in enumerate(chosen):
        own, initial = (
            task.loss(task.activation(outputs[task.name + end]), batch, None) for end in ("", "/aux/initial")
        )
        np.testing.assert_allclose(plain[i], own, rtol=1e-5)
        np.testing.assert_allclose(with_auxiliary[i], own + 0.5 * initial, rtol=1e-5)


def test_mistakes_are_named(config):
    for names, message in [
        (("depth", "edges"), "unknown task 'edges': choose from segmentation, depth, or give"),
        (("nowhere:edges",), "task 'nowhere:edges': cannot import nowhere: No module"),
        (("configs.three_tasks:edges",), r"configs\.three_tasks has no 'edges'"),
        (("configs.three_tasks:ConfigDict",), "not a mtlflax.tasks.Task"),
        (("depth", "depth"), "there twice"),
        ((), "give at least one"),
    ]:
        config.tasks = names
        with pytest.raises((UserError, ValueError), match=message):
            tasks.from_config(config, FIELDS)


@pytest.mark.parametrize("name", ["segmentation", "depth", "normals"])
def test_the_tasks_here_pass_their_trial(config, name):
    task = three_tasks.normals(config, FIELDS) if name == "normals" else tasks.TASKS[name](config, FIELDS)
    tasks.check(task, FIELDS, SIZE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": lambda p, b, axis: jnp.mean(p, axis=0)}, r"`loss` fails on a blank frame: gives \[.*\], not \[\]"),
        (
            {"loss": lambda p, b, axis: b["nothing"]},
            r"`loss` fails .*: KeyError: nothing \(.*test_tasks\.py, line \d+\)",
        ),
        ({"truth": lambda b: b["depth"][..., 0]}, r"`truth` fails .*: gives \[1, \d+, \d+\], not \[1, \d+, \d+, 1\]"),
        ({"colors": lambda m: m}, r"`colors` fails .*: gives \[dtype\('float32'\)"),
        ({"metrics": lambda sums: 1 / 0}, r"`metrics` fails .*: ZeroDivisionError: division by zero \(.*, line"),
        ({"files": lambda p, f: {"x": p[:2]}}, r"`files` fails .*: gives \[2, "),
        ({"activation": lambda x: x[..., :0]}, r"`activation` fails .*: gives \[1, .*, 0\], not"),
    ],
)
def test_a_mistake_in_a_task_of_ones_own_shows_at_the_start(config, changes, message):
    task = dataclasses.replace(tasks.TASKS["depth"](config, FIELDS), **changes)
    with pytest.raises(UserError, match=rf"task 'depth': {message}"):
        tasks.check(task, FIELDS, SIZE)
