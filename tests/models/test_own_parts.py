"""A network and an encoder of one's own, from a file outside the package, in one training step each."""

import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlflax import models
from mtlflax.errors import UserError
from mtlflax.models import pretrained
from mtlflax.models.__main__ import main

CODE = """
import flax.linen as nn
import jax
from mtlflax.models.layers import ConvBlock, average_pool

class Small(nn.Module):
    output_stride: int = 32
    remat: bool = False
    axis_name: str | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images, train=False):
        maps = [images]
        for i in range(5):
            maps.append(ConvBlock(8, 3, 1, axis_name=self.axis_name, name=f"block{i}")(average_pool(maps[-1]), train))
        return tuple(maps[1:])

def small(**options):
    return Small(**options)

class Linear(nn.Module):
    backbone: object
    heads: dict
    axis_name: str | None = None
    width: int = 4

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(self.width, (1, 1), name="trunk")(images)
        return {task: nn.Conv(n, (1, 1), name=f"head_{task}")(x) for task, n in self.heads.items()}

    @nn.nowrap
    def shared(self, path):
        return path.startswith("trunk/")
"""
HEADS = {"segmentation": 3, "depth": 1}


@pytest.fixture(scope="module", autouse=True)
def own_parts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_parts.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def assert_it_learns(model: Any) -> None:
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)

    @jax.jit
    def step(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            outputs, _ = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            assert {task: y.shape for task, y in outputs.items()} == {t: (2, 32, 32, n) for t, n in HEADS.items()}
            return sum(jnp.mean(jnp.square(y - 0.3)) for y in outputs.values())

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda x, g: x - 0.05 * g, params, gradient)

    before, params = step(variables["params"])
    after, _ = step(params)
    assert after < before


@pytest.mark.parametrize("by", ["name", "class"])
def test_a_network_of_ones_own(by: str) -> None:
    import own_parts

    name = "own_parts:Linear" if by == "name" else own_parts.Linear
    model = models.get(name, backbone="resnet18", heads=HEADS, width=6)
    assert (model.width, model.shared("trunk/kernel")) == (6, True)
    assert_it_learns(model)


def test_an_encoder_of_ones_own() -> None:
    model = models.get("unet", backbone="own_parts:small", heads=HEADS, decoder_channels=(8,) * 5, head_stride=4)
    assert_it_learns(model)
    assert model.last_shared("encoder/block0/conv/kernel")  # no last stage is named: the whole encoder
    import own_parts

    assert isinstance(models.encoder(own_parts.Small, output_stride=16), own_parts.Small)


class Wrong(nn.Module):
    """A network of which one thing at a time is wrong."""

    heads: dict[str, int]
    what: str
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Any:
        if self.what == "size":
            images = images[:, ::2, ::2]
        if self.what == "dropout":
            images = nn.Dropout(0.5, deterministic=not train)(images)
        outputs = {task: nn.Conv(channels, (1, 1), name=task)(images) for task, channels in self.heads.items()}
        return tuple(outputs.values()) if self.what == "tuple" else outputs


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("size", r"network 'm:Wrong' gives .*'float32 \[1, 16, 24, 3\]'.* not .*'float32 \[1, 32, 48, 3\]'"),
        ("tuple", r"network 'm:Wrong' failed on an image of 32×48: AttributeError: 'tuple' object"),
        (
            "dropout",
            r"network 'm:Wrong' failed on an image of 32×48: InvalidRngError: .*test_own_parts\.py, line \d+\)",
        ),
    ],
)
def test_a_network_is_checked_by_its_shapes(what: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.check_network(Wrong(HEADS, what, "data"), "m:Wrong", HEADS, (32, 48), "data")
    models.check_network(Wrong(HEADS, "", "data"), "m:Right", HEADS, (32, 48), "data")


class WrongEncoder(nn.Module):
    """Maps of given strides, and no option `remat`."""

    strides: tuple[int, ...] = (2, 4, 8, 16, 16)
    output_stride: int = 32
    axis_name: str | None = None
    dtype: str = "float32"

    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        return tuple(images[:, ::stride, ::stride] for stride in self.strides)


def wrong_encoder(*, remat: bool, **options: Any) -> WrongEncoder:
    return WrongEncoder(**options)


def test_an_encoder_is_checked_by_its_shapes() -> None:
    models.check_encoder("own_parts:Small")
    with pytest.raises(UserError, match=r"gives maps of .*8×12, 4×6, 4×6 .* not the five maps .* 2×3$"):
        models.check_encoder(wrong_encoder)
    with pytest.raises(UserError, match=r"failed .* unexpected keyword argument 'remat'"):
        models.check_encoder(WrongEncoder)


@pytest.mark.parametrize("name", ["mtan", "cross_stitch", "sluice", "nddr_cnn"])
def test_a_network_that_looks_inside_the_stages_says_so(name: str) -> None:
    model = models.get(name, backbone="own_parts:Small", heads=HEADS)
    with pytest.raises(ValueError, match="'own_parts:Small': this network needs an encoder with the methods stem and"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_pretrained_weights_are_for_built_in_encoders() -> None:
    with pytest.raises(UserError, match=r"known for the built-in encoders .* not for own_parts:Small"):
        pretrained.convert("own_parts:Small", {"conv1.weight": np.zeros(1)})


def test_unknown_names_are_one_message() -> None:
    with pytest.raises(UserError, match="network 'own_parts:Nothing': own_parts has no 'Nothing'"):
        models.get("own_parts:Nothing", backbone="resnet18", heads=HEADS)
    with pytest.raises(UserError, match="encoder 'own_parts:Nothing'"):
        models.get("unet", backbone="own_parts:Nothing", heads=HEADS)


def test_they_are_in_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from mtlflax.models import __main__ as table

    monkeypatch.setattr(table, "encoder_table", lambda: "")
    monkeypatch.setattr(table, "MODELS", {})
    main(["--network=own_parts:Linear", "--backbone=own_parts:Small", "--size=64x64"])
    assert "| `own_parts:Linear` | 0.00 |" in capsys.readouterr().out
