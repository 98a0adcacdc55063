"""One battery over every topology, with both encoder families, two tasks and three; then what each adds of its own."""

import re
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers.topologies import HEADS, OPTIONS, network, pictures

from mtlflax import metrics, models, tasks
from mtlflax.data import streets
from mtlflax.models import densenet, resnet
from mtlflax.models.cross_stitch import CrossStitch
from mtlflax.models.deeplab import ASPP
from mtlflax.models.mtan import Attention
from mtlflax.models.nddr import NDDR
from mtlflax.models.sluice import LayerMixture, Subspaces
from mtlflax.models.soft_sharing import shrink
from mtlflax.training import trunk
from mtlflax.training.step import normalize

CASES = [(name, "resnet18", 2) for name in models.MODELS]
CASES += [pytest.param(name, "densenet121", 3, marks=pytest.mark.slow) for name in models.MODELS]
ODD = (37, 51)

battery = pytest.mark.parametrize(("name", "backbone", "tasks"), CASES)


@pytest.fixture
def shallow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders with all their parts but few layers: what takes time is compiling."""
    blocks = 2 if name == "mtan" else 1  # MTAN looks inside the stages
    monkeypatch.setitem(resnet.VARIANTS, "resnet18", ((blocks,) * 4, False))
    monkeypatch.setitem(densenet.VARIANTS, "densenet121", (blocks,) * 4)


class Ran(NamedTuple):
    """What a network has computed, on the host: one program each for training, evaluation and half precision.

    Attributes:
        variables: before.
        gradients: by path, [K, ...].
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
    if path[-1] in ("alpha", "beta"):
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
            for key, y in outputs.items():  # auxiliary predictions too
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


def test_every_topology_is_tested() -> None:
    assert set(OPTIONS) == set(models.MODELS)


@pytest.mark.parametrize("size", [(64, 96), (33, 130)])
@pytest.mark.parametrize("backbone", ["resnet18", "densenet121"])
@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.usefixtures("shallow")
def test_output_shapes(name: str, backbone: str, size: tuple[int, int]) -> None:
    model = network(name, backbone, 3, dtype="bfloat16")
    outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), pictures(*size))
    assert {task: (y.shape, y.dtype) for task, y in outputs.items()} == {
        task: ((2, *size, channels), jnp.float32) for task, channels in HEADS.items()
    }
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


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
        # bfloat16 has 8 bits: another computation, and not far away; but where a maximum is may change.
        assert 1e-4 < error < (0.4 if name == "segnet_mtan" else 0.1)


@battery
@pytest.mark.usefixtures("shallow")
def test_compiles_once_and_is_hashable(name: str, backbone: str, tasks: int) -> None:
    assert ran(name, backbone, tasks).traces == 1
    assert hash(network(name, backbone, tasks)) == hash(network(name, backbone, tasks))


@battery
@pytest.mark.usefixtures("shallow")
def test_encode_and_decode_are_the_whole(name: str, backbone: str, tasks: int) -> None:
    """Each with its own parameters alone: a trunk that needed a branch's, or a branch another's, would miss them."""
    result, model = ran(name, backbone, tasks), network(name, backbone, tasks)
    if not trunk.has_trunk(model):
        assert not hasattr(model, "encode")
        assert not hasattr(model, "last_shared")
        return
    of_trunk, own = trunk.partition(model, result.variables["params"])

    def apply(params: trunk.Flat, *args: Any, **keywords: Any) -> Any:
        given = {"params": unflatten_dict(params, sep="/"), "batch_stats": result.variables["batch_stats"]}
        return model.apply(given, *args, **keywords)

    @jax.jit
    def parts(images: jax.Array) -> Any:
        features = apply(of_trunk, images, method="encode")
        return {task: apply(own, features, task, size=ODD, method="decode") for task in result.outputs}

    ours = jax.device_get(parts(pictures(*ODD)))
    for task, expected in result.outputs.items():
        np.testing.assert_allclose(ours[task], expected, rtol=1e-4, atol=1e-5)

    def one(images: jax.Array, task: str) -> jax.Array:
        only = {path: x for path, x in own.items() if path.startswith(f"decoder_{task}/")}
        return apply(only, apply(of_trunk, images, method="encode"), task, size=(64, 96), method="decode")

    for task in result.outputs:  # a branch needs no parameters but its own
        assert jax.eval_shape(lambda x, task=task: one(x, task), pictures(64, 96)).shape[:3] == (2, 64, 96)
    last = [path for path in of_trunk if model.last_shared(path)]
    assert last
    assert all(model.shared(path) for path in last)


@pytest.mark.parametrize("name", models.MODELS)
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


@pytest.mark.parametrize("size", [(64, 128), (32, 32)])
@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.usefixtures("shallow")
def test_no_kernel_has_more_pixels_than_its_map(name: str, size: tuple[int, int]) -> None:
    """XLA would exchange their roles and, on a CPU, take up to 50 times as long (tests/benchmarks/README.md)."""
    model, images = network(name), pictures(*size)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params: Any, batch_stats: Any) -> jax.Array:
        outputs, _ = model.apply({"params": params, "batch_stats": batch_stats}, images, True, mutable=["batch_stats"])
        return sum(jnp.sum(y) for y in outputs.values())

    lowered = jax.jit(jax.grad(loss)).lower(variables["params"], variables["batch_stats"]).as_text()
    axes, shape = r"\[(.*?)\]", r"tensor<([\dx]+)xf32>"
    found = re.findall(rf"stablehlo\.convolution.*?dim_numbers = {axes}x{axes}.*? : \({shape}, {shape}\)", lowered)
    assert len(found) == lowered.count("stablehlo.convolution") > 2

    def pixels(axes: str, shape: str) -> int:
        sizes = dict(zip(axes.split(", "), map(int, shape.split("x")), strict=True))
        return sizes["0"] * sizes["1"]

    wrong = [each for each in found if pixels(each[1], each[3]) > pixels(each[0], each[2])]
    assert not wrong


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deeplabv3plus", {"output_stride": 4}, "output_stride is 4: choose from 8, 16, 32"),
        ("deeplabv3plus", {"low_channels": -1}, "low_channels is -1"),
        ("deeplabv3plus", {"heads": {}}, "heads is empty"),
        ("mtan", {"atrous_rates": ()}, r"atrous_rates is \(\)"),
        ("mtan", {"atrous_rates": (6, 0)}, r"atrous_rates is \(6, 0\): must be whole numbers, at least 1"),
        ("deeplabv3plus", {"atrous_rates": (1.5,)}, r"atrous_rates is \(1\.5,\): must be whole numbers"),
        ("mtan", {"aspp_channels": 0}, "aspp_channels is 0"),
        ("mtan", {"heads": {}}, "heads is empty"),
        ("cross_stitch", {"heads": {"depth": 1}}, "needs two tasks or more, not depth alone"),
        ("sluice", {"heads": {"depth": 1}}, "two tasks or more"),
        ("nddr_cnn", {"heads": {"depth": 1}}, "two tasks or more"),
        ("cross_stitch", {"attention": "magic"}, "attention is 'magic': choose from gate"),
        ("cross_stitch", {"head_stride": 3}, r"head_stride is 3: choose from 1, 2, 4"),
        ("cross_stitch", {"decoder_channels": (8, 8)}, r"decoder_channels is \(8, 8\): must be five numbers"),
        ("cross_stitch", {"decoder_channels": (8, 8, 8, 8, 4.5)}, "decoder_channels is .*: must be whole numbers"),
        ("cross_stitch", {"decoder_channels": 8}, "decoder_channels is 8: must be five numbers"),
        ("unet", {"head_stride": True}, "head_stride is True"),
        ("unet", {"heads": {"a/b": 1}}, "heads has a task named 'a/b'"),
        ("deeplabv3plus", {"output_stride": 8.0}, "output_stride is 8.0: choose from"),
        ("deeplabv3plus", {"atrous_rates": 6}, "atrous_rates is 6"),
        ("cross_stitch", {"own": 0.0}, "own is 0.0"),
        ("sluice", {"own": 1.5}, "own is 1.5"),
        ("sluice", {"last": 0.0}, "last is 0.0"),
        ("sluice", {"subspaces": 0}, "subspaces is 0"),
        ("sluice", {"subspaces": 3}, "subspaces is 3: must divide 64"),
        ("nddr_cnn", {"own": -1.0}, "own is -1.0"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    given = {"backbone": "resnet18", "heads": HEADS, **options}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(models.get(name, **given).init, jax.random.key(0), pictures(64, 64))


# ------------------------------------------------------------------------------- what each adds of its own


def three_maps(channels: int = 4) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(3, 2, 3, 5, channels)).astype(np.float32))


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_cross_stitch_is_a_convex_combination_at_first(per_channel: bool) -> None:
    maps = three_maps()
    mixed, variables = CrossStitch(1, 0.8, per_channel).init_with_output(jax.random.key(0), maps, False)
    np.testing.assert_allclose(mixed, 0.1 * maps[0] + 0.8 * maps[1] + 0.1 * maps[2], atol=1e-6)
    assert variables["params"]["alpha"].shape == (3, 4 if per_channel else 1)
    alpha = np.random.default_rng(1).normal(size=(3, 4 if per_channel else 1)).astype(np.float32)
    mixed = CrossStitch(1, 0.8, per_channel).apply({"params": {"alpha": alpha}}, maps, False)
    np.testing.assert_allclose(mixed, sum(a * x for a, x in zip(alpha, maps, strict=True)), atol=1e-5)


def test_subspaces_are_mixed_by_one_matrix() -> None:
    """α as in the paper, [tasks × subspaces] squared; a task's unit holds its rows."""
    maps, parts = three_maps(6), 2
    alpha = np.random.default_rng(1).normal(size=(3 * parts, 3 * parts)).astype(np.float32)
    stacked = np.stack(maps, axis=-2).reshape(2, 3, 5, 3 * parts, 3)
    expected = (alpha @ stacked).reshape(2, 3, 5, 3, 6)
    for index in range(3):
        rows = alpha[parts * index : parts * (index + 1)].reshape(parts, 3, parts)
        unit = Subspaces(index, parts, 0.9)
        mixed = unit.apply({"params": {"alpha": rows}}, maps, False)
        np.testing.assert_allclose(mixed, expected[..., index, :], atol=1e-5)
        first = unit.init(jax.random.key(0), maps, False)["params"]["alpha"]
        np.testing.assert_allclose(first.sum((1, 2)), 1, rtol=1e-6)
        np.testing.assert_allclose([first[0, index, 0], first[1, index, 1], first[0, index, 1]], [0.9, 0.9, 0.02])


def test_a_mixture_of_layers() -> None:
    rng = np.random.default_rng(0)
    maps = [
        rng.normal(size=(2, *shape)).astype(np.float32) for shape in ((12, 20, 3), (6, 10, 4), (3, 5, 6), (3, 5, 6))
    ]
    module = LayerMixture(0.7)
    mixed, variables = module.init_with_output(jax.random.key(0), maps, False)
    np.testing.assert_allclose(variables["params"]["beta"], [0.1, 0.1, 0.1, 0.7], atol=1e-6)
    assert mixed.shape == (2, 3, 5, 6)
    last = {**variables["params"], "beta": jnp.array([0.0, 0, 0, 2])}
    np.testing.assert_allclose(module.apply({**variables, "params": last}, maps, False), 2 * maps[-1], rtol=1e-6)
    third = {**variables["params"], "beta": jnp.array([0.0, 0, 1, 0])}
    kernel = variables["params"]["project3"]["conv"]["kernel"][0, 0]
    expected = np.maximum(maps[2] @ kernel, 0) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(module.apply({**variables, "params": third}, maps, False), expected, atol=1e-5)


def test_shrinking_averages() -> None:
    x = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    small = shrink(x, (2, 3))
    assert small.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(shrink(np.ones_like(x), (3, 5)), 1, rtol=1e-5)
    pulled = jax.grad(lambda x: shrink(x, (2, 3)).sum())(x)
    assert np.all(pulled > 0)  # no pixel is left out


def test_an_nddr_layer_starts_as_a_weighted_mean() -> None:
    maps = three_maps()
    fused, variables = NDDR(2, 0.8).init_with_output(jax.random.key(0), maps, False)
    mean = 0.1 * maps[0] + 0.1 * maps[1] + 0.8 * maps[2]
    np.testing.assert_allclose(fused, np.maximum(mean, 0) / np.sqrt(1 + 1e-5), atol=1e-5)
    assert variables["params"]["fuse"]["conv"]["kernel"].shape == (1, 1, 12, 4)


def test_a_shortcut_is_fused_from_all_stages() -> None:
    paths = {
        shortcut: set(flatten_dict(jax.eval_shape(model.init, jax.random.key(0), pictures(64, 64))["params"], sep="/"))
        for shortcut in (False, True)
        for model in [network("nddr_cnn", shortcut=shortcut)]
    }
    assert paths[True] - paths[False] == {
        f"shortcut_{task}/fuse/{leaf}"
        for task in ("segmentation", "depth")
        for leaf in ("conv/kernel", "bn/scale", "bn/bias")
    }


def test_aspp_sees_as_far_as_its_rates_and_the_whole_image() -> None:
    """One pixel of the input changes the 3×3 convolutions' parts where the rates reach, and the mean everywhere."""
    aspp = ASPP(4, (2, 3))
    x = np.random.default_rng(0).normal(size=(1, 9, 11, 5)).astype(np.float32)
    variables = aspp.init(jax.random.key(0), x, False)
    changed = x.copy()
    changed[0, 4, 5] += 1

    def parts(x: np.ndarray) -> dict[str, np.ndarray]:
        kept = aspp.apply(variables, x, False, capture_intermediates=True)[1]["intermediates"]
        return {name: np.asarray(kept[name]["conv"]["__call__"][0]) for name in ("point", "atrous1", "atrous2", "mean")}

    moved = {}
    for name, before in parts(x).items():
        moved[name] = set(zip(*np.nonzero(np.abs(parts(changed)[name] - before)[0].max(-1) > 1e-6), strict=True))
    assert moved["point"] == {(4, 5)}
    assert moved["atrous1"] == {(4 + 2 * i, 5 + 2 * j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert moved["atrous2"] == {(4 + 3 * i, 5 + 3 * j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert moved["mean"] == {(0, 0)}


def test_deeplab_is_libmtls() -> None:
    """LibMTL's network for Cityscapes: ResNet-50 without its classifier, and a head a task as its PyTorch code has."""
    model = models.get("deeplabv3plus", backbone="resnet50", heads={"segmentation": 7, "depth": 1})
    params = jax.eval_shape(model.init, jax.random.key(0), pictures(128, 256))["params"]
    counts = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    aspp = 2 * 2048 * 256 + 3 * 9 * 2048 * 256 + 5 * 256 * 256 + 6 * 2 * 256
    head = aspp + 9 * 256 * 256 + 2 * 256
    assert counts == {
        "encoder": 25_557_032 - 2_049_000,
        "decoder_segmentation": head + 257 * 7,
        "decoder_depth": head + 257,
    }


def test_attention_lets_through_no_more_than_the_map() -> None:
    rng = np.random.default_rng(0)
    inner, outer, before = (rng.normal(size=(2, 4, 6, c)).astype(np.float32) for c in (5, 8, 8))
    attended, variables = Attention().init_with_output(jax.random.key(0), inner, outer, before, False)
    params = jax.tree.map(np.asarray, variables["params"])
    hidden = np.concatenate([inner, before], -1) @ params["g"]["conv"]["kernel"][0, 0] / np.sqrt(1 + 1e-5)
    logits = np.maximum(hidden, 0) @ params["h_conv"]["kernel"][0, 0] / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(attended, outer / (1 + np.exp(-logits)), atol=1e-5)
    assert params["g"]["conv"]["kernel"].shape == (1, 1, 13, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", models.MODELS)
def test_remat_changes_no_result(name: str) -> None:
    images = pictures(*ODD)
    flat = flatten_dict(jax.eval_shape(network(name).init, jax.random.key(0), images))
    variables = unflatten_dict({path: draw(path, leaf, np.random.default_rng(0)) for path, leaf in flat.items()})

    def train(remat: bool) -> Any:
        def loss(params: Any) -> Any:
            given = {**variables, "params": params}
            outputs, updated = network(name, remat=remat).apply(given, images, True, mutable=["batch_stats"])
            return sum(jnp.mean(jnp.square(y - 0.3)) for y in outputs.values()), updated

        return jax.device_get(jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"]))

    (value, updated), gradient = train(False)
    (again, stats), recomputed = train(True)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), stats, updated)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    # Recomputed values round otherwise, and a few are on the other side of a ReLU.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-4 * largest), recomputed, gradient)
    ours, expected = (np.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in (recomputed, gradient))
    assert np.linalg.norm(ours - expected) < 1e-3 * np.linalg.norm(expected)


# --------------------------------------------------------------------------------------------- it learns


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_two_scenes_are_learnt_by_heart(name: str) -> None:
    size = (96, 192)
    source = streets.Streets("train", size=size, classes=7, length=2, cache="auto")
    frames = [source[i] for i in range(2)]
    batch = {key: np.stack([frame[key] for frame in frames]) for key in ("image", "segmentation", "depth")}
    images = normalize(jnp.asarray(batch["image"]))
    # Cross-entropy finds rare classes late.
    chosen = (tasks.segmentation(source.fields, loss="dice"), tasks.depth(source.fields))
    stride, options = 4, {"decoder_channels": (64, 48, 32, 32, 32), "head_stride": 4}
    if "aspp_channels" in OPTIONS[name]:
        stride, options = 8, {"atrous_rates": (3, 6, 9), "aspp_channels": 64}
    if "width" in OPTIONS[name]:
        options = {"width": 64}
    if "widths" in OPTIONS[name]:
        options = {"widths": (32, 48, 64, 64, 64)}
    steps = 900 if name in ("pad_net", "pap_net") else 300  # their last class, of a few pixels, takes longer
    # The truth is what heads at that stride can show: every n-th pixel, in squares of two of the heads' pixels.
    side = 2 * stride
    truth = batch["segmentation"][:, stride::side, stride::side]
    batch["segmentation"] = truth.repeat(side, axis=1).repeat(side, axis=2)
    heads = {task.name: task.channels for task in chosen}
    model = models.get(name, backbone="resnet18", heads=heads, **options)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

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
    for _ in range(steps):
        variables, state = step(variables, state)
    outputs = jax.jit(model.apply)(variables, images)
    predicted = jnp.argmax(outputs["segmentation"], axis=-1)
    score = metrics.miou(np.asarray(metrics.confusion_matrix(batch["segmentation"], predicted, 7)))
    measured = batch["depth"] > 0
    error = np.abs(np.asarray(outputs["depth"]) - batch["depth"])[measured].mean()
    print(f"{name}: mIoU {score:.3f}, depth error {error:.4f}")
    assert score > 0.9
    assert error < 0.02
