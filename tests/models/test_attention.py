"""Every kind of attention: its formula in numpy, what depends on what, and the step where decoders are coupled."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers.batches import assert_close, make_batch
from helpers.steps import OPTIMIZER, TASKS, check_step, make_method, make_step, task_gradients

from configs import single_task
from mtlflax import models, weighting
from mtlflax.models import decoder, unet
from mtlflax.models.attention import KINDS
from mtlflax.models.decoder import Decoder
from mtlflax.models.layers import Conv
from mtlflax.training import parallel
from mtlflax.training.gradients import Method, init_method
from mtlflax.training.step import TrainState, WeightingState
from mtlflax.training.trunk import has_trunk

HEADS = {"segmentation": 19, "depth": 1, "normals": 3}


class TinyEncoder(nn.Module):
    """Five convolutions: an encoder that compiles in no time. All but the first map are still to be normalised."""

    name_of_encoder: str
    remat: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    activated = (True, False, False, False, False)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        maps = []
        for i in range(5):
            x = Conv(8, 3, 2, 1, dtype=self.dtype, name=f"conv{i}")(x)
            maps.append(nn.relu(x) if i == 0 else x)
        return tuple(maps)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes time here is compiling: a tiny encoder and small decoders."""
    monkeypatch.setattr(unet, "encoder", TinyEncoder)
    monkeypatch.setattr(decoder, "HEAD_STRIDES", (1, 8))  # 8: two stages, one before another, are all there is to test


def network(kind: str, num_tasks: int = 2, **options: Any) -> Any:
    heads = dict(list(HEADS.items())[:num_tasks])
    options = {"decoder_channels": (16, 16, 16, 8, 8), "head_stride": 8, **options}
    return models.get("unet", backbone="resnet18", heads=heads, attention=kind, **options)


def draw(shapes: Any) -> Any:
    """Random variables, biases and running statistics too."""
    rng = np.random.default_rng(0)

    def one(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1] == "kernel":
            return rng.normal(0, np.sqrt(1 / np.prod(leaf.shape[:3])), leaf.shape)
        return rng.uniform(0.5, 1.5, leaf.shape) if path[-1] in ("scale", "var") else rng.normal(0, 0.3, leaf.shape)

    flat = {path: one(path, leaf).astype(np.float32) for path, leaf in flatten_dict(shapes).items()}
    return unflatten_dict(flat)


def initialised(model: Any) -> Any:
    return draw(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))))


def pictures(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (*shape, 3))


# ----------------------------------------------------------------------------- the formulas, in float64


def conv(x: np.ndarray, p: Mapping[str, np.ndarray]) -> np.ndarray:
    k, h, w = p["kernel"].shape[0], x.shape[1], x.shape[2]
    x = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2, (0, 0)))
    return sum(x[:, i : i + h, j : j + w] @ p["kernel"][i, j] for i in range(k) for j in range(k)) + p.get("bias", 0)


def norm(x: np.ndarray, v: Any, name: str, train: bool) -> np.ndarray:
    p, stats = v["params"][name], v["batch_stats"][name]
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (stats["mean"], stats["var"])
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def enlarge(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, between the centres of pixels."""
    for axis, target in ((1, size[0]), (2, size[1])):
        length = x.shape[axis]
        at = np.clip((np.arange(target) + 0.5) * length / target - 0.5, 0, length - 1)
        below = np.floor(at).astype(int)
        share = np.expand_dims(at - below, tuple(i for i in range(4) if i != axis))
        x = (1 - share) * x.take(below, axis) + share * x.take(np.minimum(below + 1, length - 1), axis)
    return x


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gate(v: Any, skip: np.ndarray, gating: np.ndarray, train: bool) -> np.ndarray:
    p, (b, h, w, c) = v["params"], skip.shape
    even = np.concatenate([skip, skip[:, h - h % 2 : h] if h % 2 == 0 else skip[:, -1:]], 1)
    even = np.concatenate([even, even[:, :, w - w % 2 : w] if w % 2 == 0 else even[:, :, -1:]], 2)
    coarse = even.reshape(b, -(-h // 2), 2, -(-w // 2), 2, c).mean((2, 4))
    q = conv(relu(conv(coarse, p["skip"]) + conv(gating, p["gating"])), p["psi"])
    return skip * enlarge(sigmoid(q), (h, w))


def mtan(v: Any, skip: np.ndarray, gating: np.ndarray, train: bool) -> np.ndarray:
    p, both = v["params"], np.concatenate([skip, enlarge(gating, skip.shape[1:3])], -1)
    kernel = np.concatenate([p["skip"]["kernel"], p["gating"]["kernel"]], 2)
    hidden = relu(norm(conv(both, {"kernel": kernel}), v, "bn1", train))
    return skip * sigmoid(norm(conv(hidden, p["mask"]), v, "bn2", train))


def adamt(v: Any, second: np.ndarray, first: np.ndarray, train: bool) -> np.ndarray:
    return second * sigmoid(conv(first, v["params"]["mask"]))


def scse(v: Any, x: np.ndarray, first: np.ndarray, train: bool) -> np.ndarray:
    p, z = v["params"], x.mean((1, 2))
    of_channels = sigmoid(relu(z @ p["squeeze"]["kernel"][0, 0]) @ p["excite"]["kernel"][0, 0])
    of_pixels = sigmoid((x * p["spatial"]["kernel"][0, 0, :, 0]).sum(-1))
    return x * of_channels[:, None, None] + x * of_pixels[..., None]


def cross_task(v: Any, x: np.ndarray, others: Mapping[str, np.ndarray], train: bool) -> np.ndarray:
    p = v["params"]
    return x + sum(sigmoid(conv(x, p["gate"])) * conv(other, p[f"from_{task}"]) for task, other in others.items())


ON_SKIPS = {"gate": gate, "mtan": mtan, "none": lambda v, skip, gating, train: skip}
BEHIND = {"adamt": adamt, "scse": scse}


def stage(kind: str, v: Any, x: np.ndarray, skip: np.ndarray, others: Any, train: bool) -> np.ndarray:
    """A decoder's stage to stride 4."""
    p = v["params"]
    own = {name: tree.get("stride4_attention", {}) for name, tree in v.items()}
    up = enlarge(conv(x, p["stride4_up"]), skip.shape[1:3])
    given = [np.concatenate([up, ON_SKIPS[kind](own, skip, x, train) if kind in ON_SKIPS else skip], -1)]
    for i in "12":
        given.append(relu(norm(conv(given[-1], p[f"stride4_conv{i}"]), v, f"stride4_bn{i}", train)))
    if kind == "cross_task":
        return cross_task(own, given[2], others, train)
    return BEHIND[kind](own, given[2], given[1], train) if kind in BEHIND else given[2]


def our_stage(decoder: Decoder, x: jax.Array, skip: jax.Array, others: Any, train: bool) -> jax.Array:
    y = decoder.stage(x, skip, 4, skip.shape[1:3], train)
    return decoder.exchange(y, others, 4, train) if decoder.attention == "cross_task" else y


def parts_of_a_stage(kind: str, size: tuple[int, int], dtype: Any = jnp.float32) -> Any:
    """A decoder, its variables and what its stage is called with: the coarse map, the skip, the others'."""
    rng = np.random.default_rng(1)
    coarse = tuple(-(-n // 2) for n in size)
    x, skip = rng.normal(size=(2, *coarse, 10)), rng.normal(size=(2, *size, 8))
    others = {task: rng.normal(size=(2, *size, 6)) for task in ("depth", "normals")}
    decoder = Decoder(3, (9, 9, 6, 4, 4), 4, kind, (True,) * 5, dtype=dtype)
    given = jax.tree.map(partial(jnp.asarray, dtype=dtype), (x, skip, others))
    variables = draw(jax.eval_shape(partial(decoder.init, train=False, method=our_stage), jax.random.key(0), *given))
    return decoder, variables, given


@pytest.mark.parametrize(("size", "train"), [((6, 8), True), ((5, 7), False)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_is_the_formula_in_numpy(kind: str, size: tuple[int, int], train: bool) -> None:
    decoder, variables, given = parts_of_a_stage(kind, size)
    apply = jax.jit(partial(decoder.apply, train=train, mutable=["batch_stats"], method=our_stage))
    ours, updated = apply(variables, *given)
    expected = stage(kind, *jax.tree.map(np.float64, (variables, *given)), train)
    assert ours.shape == expected.shape == (2, *size, 6)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())

    # Running statistics move in training alone, and what does not train looks at each frame by itself.
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), updated["batch_stats"], variables["batch_stats"])
    assert set(jax.tree.leaves(moved)) == {train}
    alone, _ = apply(variables, *jax.tree.map(lambda x: x[:1], given))
    assert np.allclose(alone, ours[:1], rtol=1e-4, atol=1e-5) != train


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_near_the_formula(kind: str) -> None:
    decoder, variables, given = parts_of_a_stage(kind, (6, 8), jnp.bfloat16)
    ours = jax.jit(partial(decoder.apply, train=False, method=our_stage))(variables, *given)
    expected = stage(kind, *jax.tree.map(np.float64, (variables, *given)), train=False)
    assert ours.dtype == jnp.bfloat16
    assert 1e-4 < np.linalg.norm(np.float64(ours) - expected) / np.linalg.norm(expected) < 0.03


# --------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_names(kind: str) -> None:
    model = network(kind, head_stride=1)
    outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((2, 45, 72, 3)))
    assert {k: (v.shape, v.dtype) for k, v in outputs.items()} == {
        task: ((2, 45, 72, channels), jnp.float32) for task, channels in model.heads.items()
    }
    # Attention adds its parameters and leaves the others': on skips, of which there is none at stride 1, or behind.
    paths = [set(flatten_dict(v["params"], sep="/")) for v in (variables, plain_shapes())]
    strides = {path.split("/")[1] for path in paths[0] - paths[1]}
    expected = (16, 8, 4, 2) if kind in ON_SKIPS else (16, 8, 4, 2, 1)
    assert strides == (set() if kind == "none" else {f"stride{stride}_attention" for stride in expected})
    assert paths[1] <= paths[0]


def plain_shapes() -> Any:
    return jax.eval_shape(network("none", head_stride=1).init, jax.random.key(0), jnp.zeros((2, 64, 64, 3)))


# With three tasks, all that decoders without coupling could get wrong they get wrong with two.
SHARING = [(kind, 2) for kind in KINDS] + [("cross_task", 3)]
SHARING += [pytest.param(kind, 3, marks=pytest.mark.slow) for kind in KINDS if kind != "cross_task"]


@pytest.mark.parametrize(("kind", "num_tasks"), SHARING)
def test_a_parameter_is_shared_if_and_only_if_several_losses_depend_on_it(kind: str, num_tasks: int) -> None:
    model = network(kind, num_tasks)
    variables = initialised(model)

    @jax.jit
    def gradients(params: Any, images: jax.Array) -> Any:
        def losses(params: Any) -> jax.Array:
            outputs = model.apply({**variables, "params": params}, images)
            return jnp.stack([jnp.mean(jnp.square(outputs[task] - 0.3)) for task in model.heads])

        return jax.jacrev(losses)(params)

    flat = flatten_dict(jax.device_get(gradients(variables["params"], pictures(2, 32, 64))), sep="/")
    assert all(np.all(np.isfinite(of_tasks)) for of_tasks in flat.values())
    depending = {path: sum(bool(np.any(g)) for g in of_tasks) for path, of_tasks in flat.items()}
    assert depending == {path: num_tasks if model.shared(path) else 1 for path in flat}


# ------------------------------------------------------------------------------- decoders that are coupled


def test_decoders_that_let_nothing_in_are_plain_ones() -> None:
    coupled, plain = network("cross_task", 3), network("none", 3)
    variables = initialised(coupled)
    flat = flatten_dict(variables)
    silent = {path: leaf * 0 if path[-2].startswith("from_") else leaf for path, leaf in flat.items()}
    images = pictures(1, 45, 71)
    outputs = [jax.jit(coupled.apply)(v, images) for v in (variables, unflatten_dict(silent))]
    without = {path: leaf for path, leaf in flat.items() if not path[2].endswith("_attention")}
    expected = jax.jit(plain.apply)(unflatten_dict(without), images)
    for task in HEADS:
        np.testing.assert_allclose(outputs[1][task], expected[task], rtol=1e-4, atol=1e-5)
        assert np.abs(outputs[0][task] - expected[task]).max() > 0.01


def test_coupled_decoders_have_no_branch_for_each_task() -> None:
    assert {kind: has_trunk(network(kind)) for kind in KINDS} == {kind: kind != "cross_task" for kind in KINDS}
    with pytest.raises(ValueError, match="attention 'cross_task' needs several tasks: choose another for segm"):
        network("cross_task", 1)
    model = network("cross_task")
    variables = initialised(model)
    features = model.apply(variables, pictures(1, 64, 64), method="encode")
    with pytest.raises(ValueError, match="attention 'cross_task': no decoder runs alone"):
        model.apply(variables, features, "depth", size=(64, 64), method="decode")
    with pytest.raises(ValueError, match="UNet has no trunk that gives features"):
        make_method("mgda", model, 2, level="representation")


def start(method: Method, model: Any) -> TrainState:
    """The state at step 0, of variables drawn on the host, which saves compiling `init`."""
    variables = initialised(model)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        optimizer=OPTIMIZER.init(variables["params"]),
        weighting=WeightingState(init_method(method, model, variables, pictures(1, 32, 64), 2), jnp.zeros(2)),
        **variables,
    )


def test_a_weighted_step_of_coupled_decoders_is_that_of_the_weighted_gradients() -> None:
    model, batch = network("cross_task", axis_name=parallel.AXIS), make_batch(0)
    method = make_method("constant", model, weights=(0.5, 2.0))
    state = start(method, model)
    losses, gradients = task_gradients(state.params, state.batch_stats, batch, model)
    mesh, step = make_step(method, model=model)
    after, metrics = step(state, parallel.shard_batch(batch, mesh))
    taken = jax.tree.map(lambda a, b: (a - b) / 0.05, state.params, after.params)
    expected = jax.tree.map(lambda g: 0.5 * g[0] + 2.0 * g[1], gradients)
    scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(expected))
    assert_close(metrics["losses"], losses, rtol=1e-5, atol=1e-6)
    assert_close(taken, expected, rtol=1e-3, atol=1e-4 * scale)


def test_a_balanced_step_of_coupled_decoders_is_the_method_on_gradients_taken_one_by_one() -> None:
    model, batch = network("cross_task", axis_name=parallel.AXIS), make_batch(0)
    method = make_method("pcgrad", model)
    state = start(method, model)
    losses, gradients = task_gradients(state.params, state.batch_stats, batch, model)
    transform = weighting.get("pcgrad", num_tasks=2, shared=model.shared)
    check_step(method, transform, {"losses": losses}, gradients, batch, losses, state, model, TASKS)


def test_single_task_configs_have_no_attention() -> None:
    assert {task: single_task.get_config(task).model.attention for task in single_task.TASKS} == {
        "segmentation": "none",
        "depth": "none",
    }
