"""The encoders against torchvision's own, with random weights and random running statistics."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mtlflax import models
from mtlflax.models import densenet, pretrained, resnet
from mtlflax.models.layers import Conv, average_pool, max_pool
from mtlflax.models.pretrained import conversion, convert
from mtlflax.models.resize import resize

torch = pytest.importorskip("torch")
torch_encoders = pytest.importorskip("helpers.torch_encoders")
state_of, torch_features = torch_encoders.state_of, torch_encoders.torch_features
try:
    torchvision = torch_encoders.import_torchvision()
except ImportError:
    pytest.skip("torchvision is not installed", allow_module_level=True)


def random_network(backbone: str, make: Callable[..., Any] | None = None) -> Any:
    """torchvision's network, or what `make` makes, with every tensor random, running statistics included."""
    torch.manual_seed(0)
    network = (make or getattr(torchvision.models, backbone))()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def assert_close(ours: Any, theirs: np.ndarray, tolerance: float = 1e-5) -> None:
    """Relative to the largest magnitude."""
    assert ours.shape == theirs.shape
    error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    assert error <= tolerance, error


def our_features(
    backbone: str, variables: Mapping[str, Any], images: np.ndarray, train: bool, **options: Any
) -> tuple[Any, Any]:
    """The five maps and the updated running statistics, in the precision of `images`."""
    module = models.encoder(backbone, dtype=images.dtype, **options)
    apply = jax.jit(partial(module.apply, train=train, mutable=["batch_stats"]))
    with jax.default_matmul_precision("highest"):
        features, updated = apply(variables, images)
    return features, updated["batch_stats"]


EVEN, ODD = (64, 96), (45, 71)


@pytest.mark.parametrize("size", [EVEN, ODD])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "densenet121"])
def test_features_equal_torchvision(backbone: str, size: tuple[int, int]) -> None:
    network = random_network(backbone)
    variables = convert(backbone, state_of(network))
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    ours, unmoved = our_features(backbone, variables, images, train=False)
    theirs = torch_features(network, backbone, images, train=False)
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our, their)
    jax.tree.map(np.testing.assert_array_equal, unmoved, variables["batch_stats"])


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("resnet18", EVEN), ("resnet18", ODD), ("resnet50", ODD), ("densenet121", ODD)],
)
def test_training_features_equal_torchvision(backbone: str, size: tuple[int, int]) -> None:
    # In float64: batch statistics of a random deep network amplify rounding, so that in float32
    # torchvision is itself up to 1e-4 away from what it computes in float64 (and so are we).
    network = random_network(backbone).double()
    variables = convert(backbone, state_of(network))
    images = np.random.default_rng(0).normal(size=(4, *size, 3))
    with jax.enable_x64(True):
        ours, running = our_features(backbone, variables, images, train=True)
    theirs = torch_features(network, backbone, images, train=True)
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our, their, 1e-10)

    # The running statistics have moved as torchvision's have, by the unbiased variance.
    moved = convert(backbone, state_of(network))["batch_stats"]
    jax.tree.map(lambda our, their: assert_close(our, their, 1e-6), running, moved)
    still = jax.tree.map(np.array_equal, moved, variables["batch_stats"])
    assert not any(jax.tree.leaves(still))


# Blocks a stage of networks that have every part, quickly; the real ones are as deep as they are.
SHALLOW = {"resnet50": (1, 2, 2, 3), "densenet121": (1, 2, 2, 3)}


def dilated_network(backbone: str, depths: tuple[int, ...], output_stride: int) -> Any:
    """torchvision's of that output stride. It has none for DenseNet: there its modules are edited."""
    if backbone == "resnet50":
        replaced = [False, output_stride == 8, True]
        block = torchvision.models.resnet.Bottleneck
        return torchvision.models.ResNet(block, list(depths), replace_stride_with_dilation=replaced)
    network = torchvision.models.DenseNet(32, depths, 64)
    dilation = 1
    for stage in range(2, 5):
        if 2 ** (stage + 1) > output_stride:
            network.features.get_submodule(f"transition{stage - 1}").pool = torch.nn.Identity()
            dilation *= 2
        for layer in network.features.get_submodule(f"denseblock{stage}").children():
            layer.conv2.dilation = layer.conv2.padding = (dilation, dilation)
    return network


@pytest.mark.parametrize("deep", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("backbone", ["resnet50", "densenet121"])
def test_dilated_features_equal_torchvision(
    backbone: str, output_stride: int, deep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = resnet if backbone == "resnet50" else densenet
    depths = {"resnet50": (3, 4, 6, 3), "densenet121": (6, 12, 24, 16)}[backbone] if deep else SHALLOW[backbone]
    monkeypatch.setitem(module.VARIANTS, backbone, (depths, True) if backbone == "resnet50" else depths)
    monkeypatch.setattr(conversion, "layout", conversion.layout.__wrapped__)  # which remembers deep ones
    network = random_network(backbone, lambda: dilated_network(backbone, depths, output_stride))
    images = np.random.default_rng(0).normal(size=(2, *ODD, 3)).astype(np.float32)
    variables = convert(backbone, state_of(network))
    ours, _ = our_features(backbone, variables, images, train=False, output_stride=output_stride)
    theirs = torch_features(network, backbone, images, train=False)
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our, their)
    assert ours[-1].shape[1:3] == ours[{16: 3, 8: 2}[output_stride]].shape[1:3]


@pytest.mark.parametrize(
    ("backbone", "count"),
    [("resnet34", 21_797_672), ("resnet101", 44_549_160), ("densenet169", 14_149_480)],
)
def test_the_other_encoders_take_torchvisions_weights(backbone: str, count: int) -> None:
    network = random_network(backbone)
    assert sum(p.numel() for p in network.parameters()) == count
    variables = convert(backbone, state_of(network))
    assert jax.tree.structure(variables) == jax.tree.structure(
        jax.eval_shape(models.encoder(backbone).init, jax.random.key(0), np.zeros((1, 64, 64, 3)))
    )


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(("backbone", "classifier"), [("resnet18", "fc"), ("densenet121", "classifier")])
def test_torchvision_takes_what_is_exported(backbone: str, classifier: str, suffix: str, tmp_path: Path) -> None:
    network = random_network(backbone)
    path = tmp_path / f"weights{suffix}"
    pretrained.write(path, pretrained.export(backbone, convert(backbone, state_of(network))))
    exported = {name: torch.from_numpy(value.copy()) for name, value in pretrained.read(path).tensors.items()}

    fresh = getattr(torchvision.models, backbone)(weights=None)
    result = fresh.load_state_dict(exported, strict=False)
    assert result.missing_keys == [f"{classifier}.weight", f"{classifier}.bias"]
    assert result.unexpected_keys == []
    loaded = state_of(fresh)
    for name, value in state_of(network).items():
        if not name.startswith(classifier):
            np.testing.assert_array_equal(loaded[name], value, err_msg=name)


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (2, 9, 7, 3), (1, 1, 2, 4)])
def test_pools_equal_torch(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) - 3  # all negative, nearly
    t = torch.from_numpy(x.transpose(0, 3, 1, 2)).requires_grad_()

    for ours, theirs in (
        (max_pool, lambda t: torch.nn.functional.max_pool2d(t, 3, 2, 1)),
        (average_pool, lambda t: torch.nn.functional.avg_pool2d(t, 2, 2)),
    ):
        if ours is average_pool and min(shape[1:3]) < 2:
            continue
        y = theirs(t)
        weights = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
        (gradient,) = torch.autograd.grad(y, t, torch.from_numpy(weights))
        value, pullback = jax.vjp(ours, x)
        assert_close(value, y.detach().numpy().transpose(0, 2, 3, 1), 1e-6)
        (ours_gradient,) = pullback(weights.transpose(0, 2, 3, 1))
        assert_close(ours_gradient, gradient.numpy().transpose(0, 2, 3, 1), 1e-6)


@pytest.mark.parametrize("size", [(10, 14), (9, 13), (20, 28), (5, 14), (15, 7), (5, 7)])
def test_resize_equals_torch(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x.transpose(0, 3, 1, 2)), size=size, mode="bilinear", align_corners=False
    )
    assert_close(resize(x, size), theirs.numpy().transpose(0, 2, 3, 1), 1e-6)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 2, 0), (3, 2, 1), (7, 2, 3)])
@pytest.mark.parametrize("size", [(12, 16), (11, 15)])
def test_conv_equals_torch(kernel: int, stride: int, padding: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 5)).astype(np.float32)
    params = {
        "kernel": rng.normal(size=(kernel, kernel, 5, 6)).astype(np.float32),
        "bias": rng.normal(size=6).astype(np.float32),
    }
    theirs = torch.nn.functional.conv2d(
        torch.from_numpy(x.transpose(0, 3, 1, 2)),
        torch.from_numpy(params["kernel"].transpose(3, 2, 0, 1)),
        torch.from_numpy(params["bias"]),
        stride,
        padding,
    )
    ours = Conv(6, kernel, stride, padding, use_bias=True).apply({"params": params}, x)
    assert_close(ours, theirs.numpy().transpose(0, 2, 3, 1))
