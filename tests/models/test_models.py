"""The networks by themselves: shapes, gradients, parameters, precision, devices, names."""

from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AxisType, PartitionSpec

from mtlflax import models
from mtlflax.errors import UserError
from mtlflax.models import densenet, resnet
from mtlflax.models.layers import BatchNorm, Conv, max_pool, scaled_normal
from mtlflax.models.resize import resize

HEADS = {"segmentation": 19, "depth": 1}
SMALL = {"decoder_channels": (32, 24, 16, 12, 8)}


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders with all their parts but few layers: what takes time is compiling."""
    monkeypatch.setitem(resnet.VARIANTS, "resnet18", ((1, 1, 1, 1), False))
    monkeypatch.setitem(resnet.VARIANTS, "resnet50", ((1, 2, 1, 1), True))
    monkeypatch.setitem(densenet.VARIANTS, "densenet121", (2, 1, 1, 2))


def network(backbone: str = "resnet18", **options: Any) -> nn.Module:
    return models.get("unet", backbone=backbone, heads=HEADS, **{**SMALL, **options})


def pictures(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (*shape, 3))


def shapes(**options: Any) -> Any:
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(network(**options).init, jax.random.key(0), images)


def initialised_anew(backbone: str = "resnet18", **options: Any) -> Any:
    """Variables drawn on the host, which saves compiling `init`."""
    rng = np.random.default_rng(0)

    def draw(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1] == "kernel":
            fan_in = np.prod(leaf.shape[:3])
            return rng.normal(0, np.sqrt(1 / fan_in), leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1] in ("scale", "var"), np.float32)

    flat = flatten_dict(shapes(backbone=backbone, **options))
    return unflatten_dict({path: draw(path, leaf) for path, leaf in flat.items()})


initialised = cache(initialised_anew)  # once per network, for tests with `shallow` alone


def sizes(variables: Any) -> dict[str, int]:
    return {key: int(np.prod(v.shape)) for key, v in flatten_dict(variables, sep="/").items()}


# ----------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # torchvision's published counts less those of the classifier.
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
        ("densenet121", 7_978_856 - 1_025_000),
        ("densenet169", 14_149_480 - 1_665_000),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    images = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(models.encoder(name).init, jax.random.key(0), images)
    assert sum(sizes(variables["params"]).values()) == count
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", (64, 64, 128, 256, 512)),
        ("resnet50", (64, 256, 512, 1024, 2048)),
        ("densenet121", (64, 256, 512, 1024, 1024)),
        ("densenet169", (64, 256, 512, 1280, 1664)),
    ],
)
@pytest.mark.parametrize("size", [(128, 256), (97, 131)])
def test_features(name: str, channels: tuple[int, ...], size: tuple[int, int]) -> None:
    module = models.encoder(name)
    images = jnp.zeros((2, *size, 3))
    features, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    halve = (lambda n: n // 2) if name.startswith("densenet") else (lambda n: -(-n // 2))
    h, w = size
    for i, (feature, c) in enumerate(zip(features, channels, strict=True)):
        # The stem and its pool round up; DenseNet's transitions round down.
        h, w = (-(-h // 2), -(-w // 2)) if i < 2 else (halve(h), halve(w))
        assert feature.shape == (2, h, w, c)


def test_densenet_refuses_tiny_images() -> None:
    module = models.encoder("densenet121")
    with pytest.raises(ValueError, match="at least 32×32 pixels, got 31×64"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 31, 64, 3)))


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.usefixtures("shallow")
def test_a_dilated_resnet_is_the_strided_one_in_between_too(output_stride: int, monkeypatch: Any) -> None:
    """Holes for strides (à trous): at every second or fourth pixel its maps are those of the strided encoder."""
    monkeypatch.setitem(resnet.VARIANTS, "resnet18", ((1, 1, 2, 2), False))
    variables = {collection: tree["encoder"] for collection, tree in initialised_anew("resnet18").items()}
    images = pictures(1, 75, 97)
    strided, dilated = (
        jax.jit(models.encoder("resnet18", output_stride=stride).apply)(variables, images)
        for stride in (32, output_stride)
    )
    for stride, there, here in zip((2, 4, 8, 16, 32), strided, dilated, strict=True):
        step = max(1, stride // output_stride)
        assert here.shape[1:3] == tuple(-(-n // min(stride, output_stride)) for n in (75, 97))
        np.testing.assert_allclose(here[:, ::step, ::step], there, rtol=1e-4, atol=1e-5)


def test_output_strides_are_checked() -> None:
    for name in ("resnet18", "densenet121"):
        with pytest.raises(ValueError, match="output_stride is 4: choose from 8, 16, 32"):
            jax.eval_shape(models.encoder(name, output_stride=4).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


# -------------------------------------------------------------------------------------------- U-Net


@pytest.mark.parametrize("size", [(64, 96), (70, 45), (33, 129)])
@pytest.mark.parametrize("backbone", ["resnet50", "densenet121"])
@pytest.mark.parametrize("head_stride", [1, 2, 4])
@pytest.mark.usefixtures("shallow")
def test_output_shapes(backbone: str, size: tuple[int, int], head_stride: int) -> None:
    model = network(backbone, head_stride=head_stride, dtype="bfloat16")
    outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((2, *size, 3)))
    assert {task: (o.shape, o.dtype) for task, o in outputs.items()} == {
        task: ((2, *size, channels), jnp.float32) for task, channels in HEADS.items()
    }
    assert set(variables["params"]) == {"encoder", "decoder_segmentation", "decoder_depth"}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.usefixtures("shallow")
def test_decoders_run_no_finer_than_the_head() -> None:
    for head_stride, names in ((1, {1, 2, 4, 8, 16}), (2, {2, 4, 8, 16}), (4, {4, 8, 16})):
        decoder = shapes(head_stride=head_stride)["params"]["decoder_depth"]
        assert {int(n[6:-6]) for n in decoder if n.endswith("_conv1")} == names
    # No convolution at all at the resolution of the images, in training either.
    model = network(head_stride=2)
    hlo = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"])).lower(
        shapes(head_stride=2), pictures(2, 64, 96)
    )
    produced = [line for line in hlo.as_text().splitlines() if "stablehlo.convolution" in line]
    assert len(produced) > 20
    assert not any("-> tensor<2x64x96x" in line for line in produced)


@pytest.mark.parametrize("backbone", ["resnet50", "densenet121"])
@pytest.mark.usefixtures("shallow")
def test_every_parameter_has_a_gradient(backbone: str) -> None:
    model = models.get("unet", backbone=backbone, heads={"depth": 1}, **SMALL)
    variables = dict(initialised(backbone))

    @jax.jit
    def gradients(params: Any, batch_stats: Any, images: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            variables = {"params": params, "batch_stats": batch_stats}
            outputs, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return jnp.sum(jnp.square(outputs["depth"] - 0.3))

        return jax.grad(loss)(params)

    params = {k: v for k, v in variables["params"].items() if k != "decoder_segmentation"}
    grads = gradients(params, variables["batch_stats"], pictures(2, 64, 64))
    # On the host: eager jax would compile something for every shape.
    grads = flatten_dict(jax.device_get(grads), sep="/")
    assert len(grads) == len(flatten_dict(params))
    assert all(np.all(np.isfinite(g)) for g in grads.values())
    assert not [path for path, g in grads.items() if np.abs(g).max() == 0]


@pytest.mark.usefixtures("shallow")
def test_encode_and_decode_are_the_whole() -> None:
    model, variables, size = network(head_stride=4), initialised(head_stride=4), (45, 71)

    @jax.jit
    def whole(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, images, True, mutable=["batch_stats"])

    @jax.jit
    def parts(variables: Any, images: jax.Array) -> Any:
        apply = partial(model.apply, variables, mutable=["batch_stats"])
        features, stats = apply(images, True, method="encode")
        merged = {"encoder": stats["batch_stats"]["encoder"]}
        outputs = {}
        for task in HEADS:
            outputs[task], stats = apply(features, task, True, size=size, method="decode")
            merged[f"decoder_{task}"] = stats["batch_stats"][f"decoder_{task}"]
        return outputs, {"batch_stats": merged}

    images = pictures(2, *size)
    ours, expected = jax.device_get((parts(variables, images), whole(variables, images)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, expected)
    moved = jax.tree.map(np.array_equal, variables["batch_stats"], expected[1]["batch_stats"])
    assert not any(jax.tree.leaves(moved))


@pytest.mark.usefixtures("shallow")
def test_single_task_is_one_head_of_many() -> None:
    single = models.get("unet", backbone="resnet18", heads={"depth": 1}, **SMALL)
    variables = {
        collection: {name: v for name, v in tree.items() if name != "decoder_segmentation"}
        for collection, tree in initialised().items()
    }
    both = jax.jit(network().apply)(initialised(), pictures(1, 64, 64))
    alone = jax.jit(single.apply)(variables, pictures(1, 64, 64))
    assert set(alone) == {"depth"}
    np.testing.assert_allclose(alone["depth"], both["depth"], atol=1e-6)


@pytest.mark.usefixtures("shallow")
def test_shared_parameters() -> None:
    model = network()
    paths = sizes(shapes()["params"])
    shared = {path for path in paths if model.shared(path)}
    assert "encoder/conv1/kernel" in shared
    assert shared == {path for path in paths if not path.startswith("decoder_")}
    assert not model.shared("decoder_depth/head/kernel")
    assert not model.shared("encoder_extra/kernel")


@pytest.mark.usefixtures("shallow")
def test_first_losses_are_a_guess() -> None:
    @jax.jit
    def first(key: jax.Array, images: jax.Array) -> Any:
        variables = network(head_stride=4).init(key, images)
        return network(head_stride=4).apply(variables, images, True, mutable=["batch_stats"])[0]

    outputs = jax.device_get(first(jax.random.key(0), pictures(2, 64, 64)))
    chances = np.exp(outputs["segmentation"])
    chances /= chances.sum(-1, keepdims=True)
    assert 0.5 / 19 < chances.min() < chances.max() < 2 / 19
    assert 0 < np.abs(outputs["depth"]).max() < 0.3


@pytest.mark.parametrize(("fan", "axis"), [("in", 2), ("out", 3)])
def test_scaled_normal(fan: Any, axis: int) -> None:
    shape = (3, 3, 50, 70)
    kernel = np.asarray(scaled_normal(2.0, fan)(jax.random.key(0), shape)).ravel()
    deviation = np.sqrt(2 / (9 * shape[axis]))
    assert abs(kernel.std() / deviation - 1) < 0.02
    assert abs(kernel.mean()) < 0.03 * deviation
    assert len(np.unique(kernel)) > 0.99 * kernel.size  # the blocks differ
    assert abs(np.mean(np.abs(kernel) < deviation) - 0.6827) < 0.01


@pytest.mark.usefixtures("shallow")
def test_bfloat16_is_near_float32_in_a_densenet() -> None:
    """For a ResNet: the battery of `test_topologies`."""
    variables, images = initialised("densenet121"), pictures(2, 64, 96)
    full = jax.jit(network("densenet121").apply)(variables, images)
    half = jax.jit(network("densenet121", dtype="bfloat16").apply)(variables, images)
    for task in HEADS:
        error = np.linalg.norm(half[task] - full[task]) / np.linalg.norm(full[task])
        assert 1e-4 < error < 0.1  # bfloat16 has 8 bits: another computation, and not far away


# XLA's CPU backend takes out what keeps recomputation behind the forward pass before it orders a program's operations:
# left in, as compilers for accelerators leave it, the memory needed shows what remat is worth.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


@pytest.mark.parametrize(
    ("backbone", "share"), [("resnet18", 0.9), pytest.param("densenet121", 0.85, marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("shallow")
def test_remat_changes_the_memory_and_not_the_gradients(backbone: str, share: float) -> None:
    variables, images = initialised(backbone, attention="none"), pictures(6, 128, 128)
    both = [shapes(backbone=backbone, attention="none", remat=remat) for remat in (False, True)]
    assert both[0] == both[1]

    def gradients(remat: bool) -> tuple[int, Any]:
        model = models.get("unet", backbone=backbone, heads={"depth": 1}, attention="none", remat=remat, **SMALL)

        def loss(params: Any, images: jax.Array) -> Any:
            outputs, updated = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return jnp.mean(jnp.square(outputs["depth"] - 0.3)), updated

        params = {name: tree for name, tree in variables["params"].items() if name != "decoder_segmentation"}
        compiled = jax.jit(jax.grad(loss, has_aux=True)).lower(params, images).compile(compiler_options=KEEP_BARRIERS)
        return compiled.memory_analysis().temp_size_in_bytes, jax.device_get(compiled(params, images))

    (memory, expected), (memory_of_remat, ours) = gradients(remat=False), gradients(remat=True)
    assert memory_of_remat < share * memory  # the decoder alone would not do
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    # What is recomputed is fused with other operations, and rounds otherwise: some pixels near 0 are on the other side
    # of a ReLU. Where BatchNorm takes a whole gradient away, rounding is all that is left.
    largest = max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(expected))
    for our, leaf in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(our - leaf) < 5e-3 * np.linalg.norm(leaf) + 1e-6 * largest


def test_names_are_checked() -> None:
    with pytest.raises(UserError, match=r"unknown network 'v-net'.*: choose from unet"):
        models.get("v-net", backbone="resnet18", heads=HEADS)
    with pytest.raises(UserError, match=r"unknown encoder 'vgg': choose from resnet18, .*169"):
        models.get("unet", backbone="vgg", heads=HEADS)
    with pytest.raises(UserError, match=r"unknown encoder 'vgg': choose from resnet18, .*169"):
        models.encoder("vgg")
    for options, message in (
        ({"attention": "magic"}, "attention is 'magic': choose from gate, adamt, mtan, scse, cross_task, none"),
        ({"head_stride": 3}, r"head_stride is 3: choose from 1, 2, 4"),
        ({"decoder_channels": (8, 8)}, r"decoder_channels is \(8, 8\): must be five numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(network(**options).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    with pytest.raises(TypeError, match="colour"):
        network(colour="blue")


# ------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (3, 2, 1)])
def test_conv_equals_flax(kernel: int, stride: int, padding: int, size: tuple[int, int]) -> None:
    x = jax.random.normal(jax.random.key(0), (2, *size, 5))
    ours = Conv(4, kernel, stride, padding, use_bias=True)
    theirs = nn.Conv(4, (kernel, kernel), stride, padding=((padding, padding),) * 2)
    variables = theirs.init(jax.random.key(1), x)
    mine = jax.eval_shape(ours.init, jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, mine) == jax.tree.map(jnp.shape, variables)
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-5, atol=1e-5)


def test_batch_norm_against_numpy() -> None:
    x = np.random.default_rng(0).normal(1000.0, 1.0, (4, 3, 2, 5))
    variables = {
        "params": {"scale": np.linspace(1, 2, 5), "bias": np.linspace(-1, 1, 5)},
        "batch_stats": {"mean": np.full(5, 990.0), "var": np.full(5, 3.0)},
    }
    variables = jax.tree.map(jnp.float32, variables)
    y, updated = BatchNorm().apply(variables, jnp.float32(x), True, mutable=["batch_stats"])
    x = np.float64(np.float32(x)).reshape(-1, 5)
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * np.linspace(1, 2, 5)
    # Far from zero the variance keeps its digits: about zero float32 would leave one.
    np.testing.assert_allclose(y.reshape(-1, 5), expected + np.linspace(-1, 1, 5), atol=1e-3)
    running = updated["batch_stats"]
    np.testing.assert_allclose(running["mean"], 0.9 * 990 + 0.1 * x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(running["var"], 0.9 * 3 + 0.1 * x.var(0, ddof=1), rtol=1e-4)

    y = BatchNorm().apply(variables, jnp.float32(x).reshape(4, 3, 2, 5), False)
    expected = (x - 990) / np.sqrt(3 + 1e-5) * np.linspace(1, 2, 5) + np.linspace(-1, 1, 5)
    np.testing.assert_allclose(y.reshape(-1, 5), expected, rtol=1e-4)


@pytest.mark.parametrize("via", ["shard_map", "pmap"])
def test_synchronised_batch_norm_equals_one_device(via: str) -> None:
    x = jax.random.normal(jax.random.key(0), (8, 5, 3, 6)) * 3 + jnp.arange(6.0).reshape(1, 1, 1, 6)
    cotangent = jax.random.normal(jax.random.key(1), x.shape)
    variables = BatchNorm().init(jax.random.key(0), x, True)

    def run(module: BatchNorm, x: jax.Array, cotangent: jax.Array) -> Any:
        y, pullback, updated = jax.vjp(
            lambda x: module.apply(variables, x, True, mutable=["batch_stats"]), x, has_aux=True
        )
        return (y, pullback(cotangent)[0]), updated

    expected, expected_stats = run(BatchNorm(), x, cotangent)
    device = partial(run, BatchNorm(axis_name="data"))
    if via == "shard_map":
        mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
        spec = PartitionSpec("data")
        mapped = jax.jit(
            jax.shard_map(
                device,
                mesh=mesh,
                in_specs=(spec, spec),
                out_specs=(spec, PartitionSpec()),
                check_vma=False,
            )
        )
        ours, stats = mapped(x, cotangent)
    else:
        split = partial(jax.tree.map, lambda a: a.reshape(4, 2, *a.shape[1:]))
        ours, stats = jax.pmap(device, axis_name="data")(split(x), split(cotangent))
        ours = jax.tree.map(lambda a: a.reshape(8, *a.shape[2:]), ours)
        stats = jax.tree.map(lambda a: a[3], stats)
    for a, b in zip(jax.tree.leaves((ours, stats)), jax.tree.leaves((expected, expected_stats)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (1, 2)])
def test_max_pool_equals_reduce_window(size: tuple[int, int]) -> None:
    reference = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    @jax.jit
    def both(x: jax.Array) -> Any:
        (ours, pull_ours), (theirs, pull_theirs) = jax.vjp(max_pool, x), jax.vjp(reference, x)
        cotangent = jnp.cos(jnp.arange(ours.size, dtype=jnp.float32)).reshape(ours.shape)
        return (ours, pull_ours(cotangent)), (theirs, pull_theirs(cotangent))

    ours, theirs = both(jax.random.normal(jax.random.key(0), (2, *size, 3)) - 3)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), ours, theirs)


@pytest.mark.parametrize("size", [(10, 14), (9, 14), (20, 28), (15, 7), (5, 7)])
def test_resize_equals_jax_image(size: tuple[int, int]) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    shape = (2, *size, 3)
    ours, pull_ours = jax.vjp(lambda x: resize(x, size), x)
    theirs, pull_theirs = jax.vjp(lambda x: jax.image.resize(x, shape, "bilinear", antialias=False), x)
    cotangent = jax.random.normal(jax.random.key(1), shape)
    for our, their in zip((ours, *pull_ours(cotangent)), (theirs, *pull_theirs(cotangent)), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=3e-6)
