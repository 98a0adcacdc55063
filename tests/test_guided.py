"""PAD-Net, PAP-Net, AdaMT-Net and the light-weight RefineNet: what holds for every topology, and their own formulas."""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mtlflax import data, metrics, models, tasks, trunk
from mtlflax.models import densenet, resnet
from mtlflax.models.adamt_net import SoftAttention
from mtlflax.models.pad_net import Distillation
from mtlflax.models.pap_net import Affinity, Propagation
from mtlflax.models.refinenet_lw import Branch, ChainedResidualPooling
from mtlflax.step import normalise

# Of each topology, options that keep it small.
OPTIONS: dict[str, dict[str, Any]] = {
    "pad_net": {"width": 12},
    "pap_net": {"width": 12, "affinity_channels": 6, "iterations": 2, "beta": 0.5},
    "adamt_net": {"decoder_channels": (16, 12, 12, 8, 8), "head_stride": 2},
    "refinenet_lw": {"width": 12, "links": 2},
}
GUIDED = ("pad_net", "pap_net")
HEADS = {"segmentation": 5, "depth": 1, "normals": 3}
QUICK = {"pad_net": 2, "pap_net": 3, "adamt_net": 2, "refinenet_lw": 2}  # tasks
CASES = [(name, "resnet18", tasks) for name, tasks in QUICK.items()]
CASES += [pytest.param(name, "resnet18", 5 - QUICK[name], marks=pytest.mark.slow) for name in GUIDED]
CASES += [pytest.param(name, "densenet121", 3, marks=pytest.mark.slow) for name in OPTIONS]
ODD = (37, 51)

battery = pytest.mark.parametrize(("name", "backbone", "tasks"), CASES)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Encoders with all their parts but few layers, compiled in a hurry: what takes time is compiling."""
    monkeypatch.setitem(resnet.VARIANTS, "resnet18", ((1,) * 4, False))
    monkeypatch.setitem(densenet.VARIANTS, "densenet121", (1,) * 4)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def network(name: str, backbone: str = "resnet18", tasks: int = 2, **options: Any) -> Any:
    heads = dict(list(HEADS.items())[:tasks])
    return models.get(name, backbone=backbone, heads=heads, **{**OPTIONS[name], **options})


def pictures(*size: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (2, *size, 3))


class Ran(NamedTuple):
    """What a network has computed, on the host: one program each for training, evaluation and half precision.

    Attributes:
        variables: before.
        gradients: of each task's loss, its auxiliary ones included, by path, [K, ...].
        moved: by path, batch statistics after training.
        still: the same after evaluation.
        outputs: of evaluation.
        half: of evaluation in bfloat16.
        traces: how often the evaluation has been traced in two calls.
    """

    variables: Any
    gradients: dict[str, np.ndarray]
    moved: dict[str, np.ndarray]
    still: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    half: dict[str, np.ndarray]
    traces: int


def draw(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
    """A variable drawn on the host, which saves compiling `init`. Mixtures are uneven, so that all tasks differ."""
    if path[-1] == "kernel":
        return rng.normal(0, np.sqrt(1 / np.prod(leaf.shape[:3])), leaf.shape).astype(np.float32)
    if path[-1] == "alpha":
        return rng.uniform(0.1, 0.6, leaf.shape).astype(np.float32)
    return np.full(leaf.shape, path[-1] in ("scale", "var"), np.float32)


@cache
def ran(name: str, backbone: str, tasks: int) -> Ran:
    model, images = network(name, backbone, tasks), pictures(*ODD)
    rng = np.random.default_rng(0)
    flat = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), images))
    variables = unflatten_dict({path: draw(path, leaf, rng) for path, leaf in flat.items()})

    @jax.jit
    def train(variables: Any, images: jax.Array) -> Any:
        def losses(params: Any) -> Any:
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            outputs, updated = model.apply(given, images, True, mutable=["batch_stats"])
            of_tasks = dict.fromkeys(model.heads, 0.0)
            for key, y in outputs.items():
                of_tasks[key.split("/")[0]] += jnp.mean(jnp.square(y - 0.3))
            return jnp.stack(list(of_tasks.values())), updated["batch_stats"]

        _, pullback, stats = jax.vjp(losses, variables["params"], has_aux=True)
        return jax.vmap(pullback)(jnp.eye(tasks))[0], stats  # one program, where K pullbacks would compile K times

    traces = 0

    def evaluate(model: Any, variables: Any, images: jax.Array) -> Any:
        nonlocal traces
        traces += 1
        return model.apply(variables, images, mutable=["batch_stats"])

    evaluate = jax.jit(evaluate, static_argnums=0)
    gradients, moved = jax.device_get(train(variables, images))
    evaluate(network(name, backbone, tasks), variables, pictures(*ODD, seed=1))
    outputs, still = jax.device_get(evaluate(model, variables, images))
    counted = traces
    half, _ = jax.device_get(evaluate(network(name, backbone, tasks, dtype="bfloat16"), variables, images))
    moved, still = (flatten_dict(stats, sep="/") for stats in (moved, still["batch_stats"]))
    return Ran(variables, flatten_dict(gradients, sep="/"), moved, still, outputs, half, counted)


@pytest.mark.parametrize("size", [(64, 96), (33, 130)])
@pytest.mark.parametrize("backbone", ["resnet18", "densenet121"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.usefixtures("shallow")
def test_output_shapes_and_auxiliary_predictions_in_training_alone(
    name: str, backbone: str, size: tuple[int, int]
) -> None:
    model = network(name, backbone, 3, dtype="bfloat16")
    variables = jax.eval_shape(model.init, jax.random.key(0), pictures(*size))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))

    def forward(train: bool) -> dict[str, Any]:
        outputs, _ = jax.eval_shape(
            lambda v, x: model.apply(v, x, train, mutable=["batch_stats"]), variables, pictures(*size)
        )
        return {key: (y.shape, y.dtype) for key, y in outputs.items()}

    expected = {task: ((2, *size, channels), jnp.float32) for task, channels in HEADS.items()}
    assert forward(False) == expected
    initial = {f"{task}/aux/initial": shape for task, shape in expected.items()} if name in GUIDED else {}
    assert forward(True) == expected | initial


@battery
@pytest.mark.usefixtures("shallow")
def test_every_parameter_has_a_gradient_and_shared_ones_have_several(name: str, backbone: str, tasks: int) -> None:
    gradients, model = ran(name, backbone, tasks).gradients, network(name, backbone, tasks)
    assert all(np.all(np.isfinite(g)) for g in gradients.values())
    reached = {path: np.count_nonzero(np.abs(g).reshape(tasks, -1).max(1)) for path, g in gradients.items()}
    assert not [path for path, count in reached.items() if count == 0]
    assert {path for path, count in reached.items() if count > 1} == set(filter(model.shared, reached))
    assert set(reached.values()) == {1, tasks}


@battery
@pytest.mark.usefixtures("shallow")
def test_batch_statistics_move_in_training_alone(name: str, backbone: str, tasks: int) -> None:
    result = ran(name, backbone, tasks)
    before = flatten_dict(result.variables["batch_stats"], sep="/")
    assert not [path for path, x in before.items() if np.array_equal(x, result.moved[path])]
    assert not [path for path, x in before.items() if not np.array_equal(x, result.still[path])]


@battery
@pytest.mark.usefixtures("shallow")
def test_bfloat16_is_near_float32(name: str, backbone: str, tasks: int) -> None:
    result = ran(name, backbone, tasks)
    for task, full in result.outputs.items():
        error = np.linalg.norm(result.half[task] - full) / np.linalg.norm(full)
        assert 1e-4 < error < 0.1  # bfloat16 has 8 bits: another computation, and not far away


@battery
@pytest.mark.usefixtures("shallow")
def test_compiles_once_and_is_hashable(name: str, backbone: str, tasks: int) -> None:
    assert ran(name, backbone, tasks).traces == 1
    assert hash(network(name, backbone, tasks)) == hash(network(name, backbone, tasks))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.usefixtures("shallow")
def test_encode_and_decode_are_the_whole(name: str) -> None:
    """Each with its own parameters alone: a trunk that needed a branch's, or a branch another's, would miss them."""
    result, model = ran(name, "resnet18", QUICK[name]), network(name, tasks=QUICK[name])
    assert trunk.has_trunk(model) == (name not in GUIDED)
    if name in GUIDED:
        assert not hasattr(model, "last_shared")
        return
    of_trunk, own = trunk.partition(model, result.variables["params"])

    def apply(params: trunk.Flat, *args: Any, **keywords: Any) -> Any:
        given = {"params": unflatten_dict(params, sep="/"), "batch_stats": result.variables["batch_stats"]}
        return model.apply(given, *args, **keywords)

    def of_task(task: str) -> trunk.Flat:
        return {path: x for path, x in own.items() if path.startswith(f"decoder_{task}/")}

    @jax.jit
    def parts(images: jax.Array) -> Any:
        features = apply(of_trunk, images, method="encode")
        return {task: apply(of_task(task), features, task, size=ODD, method="decode") for task in result.outputs}

    ours = jax.device_get(parts(pictures(*ODD)))
    for task, expected in result.outputs.items():
        np.testing.assert_allclose(ours[task], expected, rtol=1e-4, atol=1e-5)

    features = jax.eval_shape(lambda x: apply(of_trunk, x, method="encode"), pictures(64, 96))
    for task in result.outputs:  # of even sizes decode knows the size
        shape = jax.eval_shape(lambda x, task=task: apply(of_task(task), x, task, method="decode"), features).shape
        assert shape == (2, 64, 96, HEADS[task])
    last = [path for path in of_trunk if model.last_shared(path)]
    assert last
    assert all(model.shared(path) for path in last)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.usefixtures("shallow")
def test_recomputing_asks_for_the_same_parameters(name: str) -> None:
    images = pictures(64, 96)
    kept, recomputed = (
        jax.eval_shape(network(name, remat=remat).init, jax.random.key(0), images) for remat in (False, True)
    )
    assert kept == recomputed

    def loss(params: Any, batch_stats: Any) -> jax.Array:
        given = {"params": params, "batch_stats": batch_stats}
        outputs, _ = network(name, remat=True).apply(given, images, True, mutable=["batch_stats"])
        return sum(jnp.sum(y) for y in outputs.values())

    traced = str(jax.make_jaxpr(loss)(kept["params"], kept["batch_stats"]))
    assert traced.count("remat2[") >= 4 + 2  # a block in each of the four stages, and a decoder for each task


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pad_net", {"heads": {"depth": 1}}, r"heads is \{'depth': 1\}: in PADNet two tasks or more"),
        ("pap_net", {"heads": {"depth": 1}}, "in PAPNet two tasks or more"),
        ("pad_net", {"stride": 32}, r"stride is 32: choose one of \(4, 8, 16\)"),
        ("pap_net", {"width": 0}, "width is 0"),
        ("pap_net", {"affinity_channels": 0}, "affinity_channels is 0"),
        ("pap_net", {"iterations": 0}, "iterations is 0"),
        ("pap_net", {"beta": 0.0}, "beta is 0.0"),
        ("pap_net", {"beta": 1.5}, "beta is 1.5"),
        ("adamt_net", {"heads": {}}, "heads is empty"),
        ("adamt_net", {"head_stride": 3}, r"head_stride is 3: choose one of \(1, 2, 4\)"),
        ("adamt_net", {"decoder_channels": (8, 8)}, r"decoder_channels is \(8, 8\): give five"),
        ("refinenet_lw", {"heads": {}}, "heads is empty"),
        ("refinenet_lw", {"width": 0}, "width is 0"),
        ("refinenet_lw", {"links": 0}, "links is 0"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.get(name, **{"backbone": "resnet18", "heads": HEADS, **options})


# --------------------------------------------------------------------- formulas, against plain numpy in float64


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def conv3(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A 3×3 convolution, padded by one, as a sum over the places of the kernel."""
    _, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))


def drawn(module: Any, *args: Any) -> tuple[Any, Any]:
    """Parameters with biases that are not 0, for the module and in float64."""
    shapes = flatten_dict(jax.eval_shape(lambda: module.init(jax.random.key(0), *args))["params"])
    rng = np.random.default_rng(1)
    flat = {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    return unflatten_dict(flat), unflatten_dict({path: x.astype(np.float64) for path, x in flat.items()})


def three_maps(h: int = 3, w: int = 5, channels: int = 4) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(3, 2, h, w, channels)).astype(np.float32))


def test_distillation_lets_messages_through_where_the_own_map_says() -> None:
    maps = dict(zip("abc", three_maps(), strict=True))
    module = Distillation("b")
    params, p = drawn(module, maps)
    assert set(params) == {"attention", "message_a", "message_c"}
    attention = sigmoid(conv3(maps["b"], p["attention"]["kernel"]) + p["attention"]["bias"])
    messages = sum(conv3(maps[task], p[f"message_{task}"]["kernel"]) for task in "ac")
    expected = maps["b"] + attention * messages
    np.testing.assert_allclose(module.apply({"params": params}, maps), expected, atol=1e-5)


def test_affinities_are_softmaxes_of_inner_products() -> None:
    x = three_maps()[0]
    module = Affinity(6)
    params, p = drawn(module, x)
    narrow = x.reshape(2, 15, 4) @ p["narrow"]["kernel"][0, 0]
    expected = softmax(np.einsum("bnc,bmc->bnm", narrow, narrow) / np.sqrt(6))
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-6)


def test_propagation_mixes_affinities_and_diffuses() -> None:
    rng = np.random.default_rng(2)
    x, affinities = three_maps()[0], softmax(rng.normal(size=(3, 2, 15, 15))).astype(np.float32)
    alpha = np.array([0.3, -1.0, 0.8], np.float32)
    module = Propagation(iterations=4, beta=0.3)
    mixed = np.einsum("k,kbnm->bnm", softmax(alpha.astype(np.float64)), affinities)
    diffused = np.linalg.matrix_power(mixed, 4) @ x.reshape(2, 15, 4)
    expected = 0.7 * x + 0.3 * diffused.reshape(x.shape)
    np.testing.assert_allclose(module.apply({"params": {"alpha": alpha}}, x, list(affinities)), expected, atol=1e-5)
    first = module.init(jax.random.key(0), x, list(affinities))["params"]["alpha"]
    np.testing.assert_array_equal(first, 0)  # all tasks alike


@pytest.mark.parametrize("depthwise", [False, True])
def test_chained_residual_pooling(depthwise: bool) -> None:
    x = three_maps(7, 9)[0]
    module = ChainedResidualPooling(3, depthwise)
    params, p = drawn(module, x)
    top = expected = x.astype(np.float64)
    for i in (1, 2, 3):
        kernel = p[f"conv{i}"]["kernel"][0, 0]
        padded = np.pad(top, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
        top = windows.max((-2, -1)) * kernel[0] if depthwise else windows.max((-2, -1)) @ kernel
        expected = expected + top
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-5)


def test_a_branch_is_depthwise_then_dense() -> None:
    x = 40 * three_maps()[0]  # beyond where ReLU6 ends
    module = Branch(2)
    params, p = drawn(module, x, (3, 5))
    hidden = np.clip(x * p["depthwise"]["kernel"], 0, 6)
    assert hidden.max() == 6
    expected = conv3(hidden, p["head"]["kernel"]) + p["head"]["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x, (3, 5)), expected, atol=1e-4)


def test_soft_attention() -> None:
    x = three_maps()[0]
    module = SoftAttention(6)
    params, p = drawn(module, x, False)
    stats = jax.eval_shape(lambda: module.init(jax.random.key(0), x, False))["batch_stats"]
    stats = unflatten_dict(
        {path: np.full(leaf.shape, path[-1] == "var", np.float32) for path, leaf in flatten_dict(stats).items()}
    )
    y = module.apply({"params": params, "batch_stats": stats}, x, False)

    def block(x: np.ndarray, p: Any) -> np.ndarray:
        return np.maximum(conv3(x, p["conv"]["kernel"]) / np.sqrt(1 + 1e-5) * p["bn"]["scale"] + p["bn"]["bias"], 0)

    map1 = block(x, p["map1"])
    expected = block(map1, p["map2"]) * sigmoid(map1 @ p["mask"]["kernel"][0, 0] + p["mask"]["bias"])
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_refinenets_decoder_is_light() -> None:
    """As the authors' decoder has them: 1×1 convolutions, one depthwise chain, two convolutions a task, no norms."""
    model = models.get("refinenet_lw", backbone="resnet50", heads={"segmentation": 19, "depth": 1})
    params = jax.eval_shape(model.init, jax.random.key(0), pictures(128, 256))["params"]
    counts = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    narrow = 256 * (256 + 512 + 1024 + 2048)
    assert counts == {
        "encoder": 25_557_032 - 2_049_000,
        "refinement": narrow + 3 * 4 * 256**2 + 4 * 256 + 3 * 256**2,
        "decoder_segmentation": 256 + 9 * 256 * 19 + 19,
        "decoder_depth": 256 + 9 * 256 + 1,
    }


# --------------------------------------------------------------------------------------------- it learns


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_two_scenes_are_learnt_by_heart(name: str) -> None:
    """With the losses of initial predictions, as in training."""
    source = data.get("streets", "train", size=(96, 192), length=2, seed=0)
    frames = [source[i] for i in range(2)]
    batch = {key: np.stack([frame[key] for frame in frames]) for key in ("image", "segmentation", "depth")}
    # Some heads are at stride 4: the truth is what they can show, every eighth pixel's, eight times as large.
    truth = batch["segmentation"][:, 4::8, 4::8]
    batch["segmentation"] = truth.repeat(8, axis=1).repeat(8, axis=2)
    images = normalise(jnp.asarray(batch["image"]))
    chosen = (tasks.segmentation(), tasks.depth())
    options = {"decoder_channels": (64, 48, 32, 32, 32), "head_stride": 2} if name == "adamt_net" else {"width": 64}
    heads = {task.name: task.channels for task in chosen}
    model = models.get(name, backbone="resnet18", heads=heads, **options)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, 300))

    @jax.jit
    def step(variables: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            given = {**variables, "params": params}
            outputs, updated = model.apply(given, images, True, mutable=["batch_stats"])
            of_task = {task.name: task for task in chosen}
            values = [(of_task[key.split("/")[0]], y) for key, y in outputs.items()]
            return sum(task.loss(task.activation(y), batch, None) for task, y in values), updated

        gradient, updated = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradient, state)
        return {"params": optax.apply_updates(variables["params"], updates), **updated}, state

    variables = jax.jit(model.init)(jax.random.key(0), images)
    state = optimizer.init(variables["params"])
    for _ in range(300):
        variables, state = step(variables, state)
    outputs = jax.jit(model.apply)(variables, images)
    predicted = jnp.argmax(outputs["segmentation"], axis=-1)
    score = metrics.miou(np.asarray(metrics.confusion_matrix(batch["segmentation"], predicted, 19)))
    measured = batch["depth"] > 0
    error = np.abs(np.asarray(outputs["depth"]) - batch["depth"])[measured].mean()
    print(f"{name}: mIoU {score:.3f}, depth error {error:.4f}")
    assert score > 0.9
    assert error < 0.02
