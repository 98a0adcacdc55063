"""PAD-Net, PAP-Net and the light-weight RefineNet: what they have beside the battery of `test_topologies`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers.topologies import HEADS, network, pictures
from jax.flatten_util import ravel_pytree

from mtlflax import models
from mtlflax.models.pad_net import Distillation
from mtlflax.models.pap_net import Affinity, Propagation
from mtlflax.models.refinenet_lw import Branch, ChainedResidualPooling


@pytest.mark.parametrize("size", [(64, 96), (33, 130)])
@pytest.mark.parametrize("backbone", ["resnet18", "densenet121"])
@pytest.mark.parametrize("name", ["pad_net", "pap_net"])
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
    initial = {f"{task}/aux/initial": shape for task, shape in expected.items()}
    assert forward(True) == expected | initial


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pad_net", {"heads": {"depth": 1}}, "PADNet needs two tasks or more, not depth alone"),
        ("pap_net", {"heads": {"depth": 1}}, "PAPNet needs two tasks or more"),
        ("pad_net", {"stride": 32}, r"stride is 32: choose from 4, 8, 16"),
        ("pap_net", {"width": 0}, "width is 0: must be a whole number, at least 1"),
        ("pap_net", {"heads": {"depth": 1, "classes": 0}}, r"heads\['classes'\] is 0"),
        ("pap_net", {"affinity_channels": 0}, "affinity_channels is 0"),
        ("pap_net", {"iterations": 0}, "iterations is 0"),
        ("pap_net", {"beta": 0.0}, "beta is 0.0"),
        ("pap_net", {"beta": 1.5}, "beta is 1.5"),
        ("refinenet_lw", {"heads": {}}, "heads is empty"),
        ("refinenet_lw", {"width": 12.5}, "width is 12.5: must be a whole number"),
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
    pixels = x.reshape(2, 15, 4)
    powers = [np.linalg.matrix_power(mixed, n) @ pixels for n in range(5)]
    expected = sum(0.7 * 0.3**n * powers[n] for n in range(4)) + 0.3**4 * powers[4]
    np.testing.assert_allclose(
        module.apply({"params": {"alpha": alpha}}, x, list(affinities)), expected.reshape(x.shape), atol=1e-5
    )
    first = module.init(jax.random.key(0), x, list(affinities))["params"]["alpha"]
    np.testing.assert_array_equal(first, 0)  # all tasks alike


@pytest.mark.parametrize(
    ("name", "options", "least", "most"),
    [("pad_net", {}, 0.2, 1), ("pap_net", {}, 0.03, 1), ("pap_net", {"beta": 0.05}, 0, 0.01)],
)
def test_tasks_guide_each_other_from_the_start(name: str, options: dict[str, Any], least: float, most: float) -> None:
    """Of a task's gradient, what another's initial network gets, against what its own gets: PAP-Net's β decides."""
    model = models.get(name, backbone="resnet18", heads={"a": 5, "b": 1}, width=64, **options)
    images, noise = jax.random.normal(jax.random.key(0), (2, 64, 64, 3)), jax.random.normal(jax.random.key(1), (5,))
    variables = jax.jit(model.init)(jax.random.key(2), images)

    def loss(params: Any) -> jax.Array:
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        outputs, _ = model.apply(given, images, True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(outputs["a"] - noise[None, None, None]))

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    own, other = (np.linalg.norm(ravel_pytree(gradient[f"initial_{task}"])[0]) for task in "ab")
    assert least * own < other < most * own


def test_the_maps_that_guide_start_at_one_scale() -> None:
    """PAD-Net makes many channels of one: were its logits or kernels small, BatchNorm's epsilon would rule."""
    model = models.get("pad_net", backbone="resnet18", heads={"a": 19, "b": 1})
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    variables = jax.jit(model.init)(jax.random.key(2), images)
    _, updated = jax.jit(lambda v: model.apply(v, images, True, mutable=["batch_stats"]))(variables)
    for task in "ab":
        variance = updated["batch_stats"][f"features_{task}"]["bn"]["var"]
        assert np.mean(10 * (variance - 0.9)) > 0.1  # of what was seen, of which a tenth is kept


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
