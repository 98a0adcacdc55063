"""Networks and operations as ONNX, by ONNX Runtime, against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers import topologies
from jax import lax, nn

from mtlflax.errors import UserError
from mtlflax.export import onnx_model
from mtlflax.models import densenet, resnet
from mtlflax.training.step import normalize


def assert_same(function, size, counts=(1, 3), rtol=1e-4):
    exported = onnx_model.load(onnx_model.convert(function, size, {}))
    for count in counts:
        images = np.random.default_rng(count).integers(0, 256, (count, *size, 3), np.uint8)
        expected, actual = jax.device_get(jax.jit(function)(images)), exported(images)
        assert expected.keys() == actual.keys()
        for name, values in expected.items():
            assert (actual[name].shape, actual[name].dtype) == (values.shape, values.dtype)
            scale = max(1, np.abs(values).max())
            np.testing.assert_allclose(actual[name] / scale, values / scale, atol=rtol, rtol=0)


def network(name, size, backbone="resnet18", **options):
    """A function of images, with variables drawn on the host, which saves compiling `init`."""
    module = topologies.network(name, backbone, **options)
    shapes = jax.eval_shape(lambda key: module.init(key, jnp.zeros((1, *size, 3)), train=False), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1] in ("scale", "var"):
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if path[-1] == "kernel" else 100
        return rng.normal(0, np.sqrt(1 / fan_in), leaf.shape).astype(np.float32)

    variables = unflatten_dict({path: draw(path, leaf) for path, leaf in flatten_dict(shapes).items()})
    return lambda images: module.apply(variables, normalize(images), train=False)


@pytest.fixture
def shallow(monkeypatch):
    monkeypatch.setitem(resnet.VARIANTS, "resnet18", ((1, 1, 1, 1), False))
    monkeypatch.setitem(densenet.VARIANTS, "densenet121", (2, 1, 1, 2))


@pytest.mark.usefixtures("shallow")
def test_a_unet():
    assert_same(network("unet", (64, 96)), (64, 96))


@pytest.mark.usefixtures("shallow")
def test_a_unet_of_odd_sizes():
    """Where strides do not divide: resizing by weights, padding by the edge, floors and ceilings."""
    assert_same(network("unet", (72, 52), "densenet121"), (72, 52), counts=(2,))


@pytest.mark.slow
@pytest.mark.parametrize("name", topologies.OPTIONS)
def test_every_network(name):
    assert_same(network(name, (64, 96)), (64, 96))


def of_maps(function):
    """A function of float maps [B, 8, 6, 3] in −1..1 as one of images."""
    return lambda images: {"y": function(images.astype(jnp.float32) / 127.5 - 1)}


WEIGHTS = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
NHWC = ("NHWC", "HWIO", "NHWC")

OPERATIONS = {
    "strides": lambda x: x[:, 1::2, ::3],
    "a channel": lambda x: x[..., 1] + x[:, :, :, 2],
    "a window": lambda x: x[:, 2:7, -3:],
    "all but the last": lambda x: x[:, :-1] * x[:, 1:],
    "a list of rows": lambda x: x[:, jnp.array([3, 0, 3])],
    "stacked": lambda x: jnp.stack([x, 2 * x], axis=2).reshape(x.shape[0], 8, 12, 3),
    "split": lambda x: sum(jnp.split(x, 3, axis=-1)),
    "zeros of the batch's size": lambda x: jnp.concatenate([jnp.zeros((*x.shape[:3], 2)), x], axis=-1),
    "ones over the batch": lambda x: jnp.broadcast_to(jnp.arange(6.0)[:, None], (x.shape[0], 8, 6, 1)) + x[..., :1],
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=0.5),
    "padded by the edge": lambda x: jnp.pad(x, ((0, 0), (0, 1), (2, 0), (0, 0)), mode="edge"),
    "resized": lambda x: jax.image.resize(x, (x.shape[0], 5, 11, 3), "bilinear", antialias=True),
    "convolution": lambda x: lax.conv_general_dilated(x, WEIGHTS, (2, 1), ((1, 2), (0, 3)), dimension_numbers=NHWC),
    "dilated": lambda x: lax.conv_general_dilated(
        x, WEIGHTS, (1, 1), "SAME", rhs_dilation=(2, 1), dimension_numbers=NHWC
    ),
    "depthwise": lambda x: lax.conv_general_dilated(
        x, WEIGHTS[:, :, :1, :3], (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=3
    ),
    "matrix": lambda x: x @ WEIGHTS[0, 0],
    "attention": lambda x: nn.softmax(jnp.einsum("bhwc,bhvc->bhwv", x, x), axis=-1),
    "summed over rows": lambda x: jnp.einsum("bhwc,hk->bwck", x, WEIGHTS[0, :, 0].repeat(3, 0)[:8]),
    "softmax": nn.softmax,
    "softplus": nn.softplus,
    "activations": lambda x: nn.relu(x) + nn.sigmoid(x) * jnp.tanh(x) + nn.leaky_relu(x) + nn.relu6(9 * x),
    "gelu": lambda x: nn.gelu(x) + nn.gelu(x, approximate=False),
    "unit length": lambda x: x * lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-3),
    "means": lambda x: x.mean((1, 2), keepdims=True) + x.max(-1, keepdims=True) - x.min(1, keepdims=True),
    "powers": lambda x: x**3 + jnp.abs(x) ** 0.5 + jnp.sqrt(jnp.abs(x)) + jnp.exp(x) + jnp.log(2 + x),
    "choice": lambda x: jnp.where((x > 0) & (x < 0.5) | ~(x <= 0.7), x, jnp.clip(-x, 0.1, 0.6)),
    "classes": lambda x: jnp.argmax(x, axis=-1),
    "checkpointed": lambda x: jax.checkpoint(jnp.sin)(x),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    assert_same(of_maps(OPERATIONS[name]), (8, 6), rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: jnp.sort(x, axis=-1), "JAX's primitive 'sort'"),
        (lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), "bfloat16"),
        (lambda x: lax.conv_transpose(x, WEIGHTS, (2, 2), "SAME"), "a transposed convolution"),
        (lambda x: jnp.take_along_axis(x, jnp.argmax(x, -1, keepdims=True), -1), "depend on the image"),
    ],
)
def test_what_has_no_conversion_is_named(function, said):
    with pytest.raises(UserError, match=f"{said}.*Export it as .stablehlo instead"):
        onnx_model.convert(of_maps(function), (8, 6), {})
