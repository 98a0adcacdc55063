"""The table of `python -m mtlflax.models`: counts against the published ones."""

import jax
import jax.numpy as jnp
import pytest

from mtlflax.models import __main__ as table
from mtlflax.models import cost
from mtlflax.models.resize import resize

# Of DenseNet's three transitions, from 56, 28 and 14 pixels a side, three quarters: they average before they convolve.
SAVED = {"densenet121": 3 / 4 * (56**2 * 256 * 128 + 28**2 * 512 * 256 + 14**2 * 1024 * 512)}


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "densenet121"])
def test_counts_are_the_published_ones(backbone):
    parameters, operations = table.count_classifier(backbone, (224, 224))
    known, published = table.PUBLISHED[backbone]
    assert parameters == known
    assert round((operations + SAVED.get(backbone, 0)) / 1e9, 3) == published


def test_multiply_adds_are_counted_wherever_they_are():
    def product(a, b):
        return jax.jit(lambda a: a @ b)(a) + jax.checkpoint(lambda a: a @ b)(a)

    jaxpr = jax.make_jaxpr(product)(jnp.ones((3, 5)), jnp.ones((5, 7)))
    assert cost.multiply_adds(jaxpr.jaxpr) == 2 * 3 * 5 * 7


def test_resizing_costs_nothing_whatever_the_sizes():
    def enlarged(x):
        return resize(x, (9, 10)), jnp.ones((3, 5)) @ x[0, :, :, 0]

    jaxpr = jax.make_jaxpr(enlarged)(jnp.ones((1, 5, 7, 2)))
    assert str(jaxpr).count("dot_general") > 1
    assert cost.multiply_adds(jaxpr.jaxpr) == 3 * 5 * 7


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--classes=0", "at least 1"),
        ("--classes=-1", "at least 1"),
        ("--size=128", "HEIGHTxWIDTH"),
        ("--size=0x0", "HEIGHTxWIDTH"),
    ],
)
def test_a_wrong_argument_is_one_message(argument, said, capsys):
    with pytest.raises(SystemExit):
        table.main([argument])
    assert said in capsys.readouterr().err


def test_the_command_prints_every_network(monkeypatch, capsys):
    monkeypatch.setattr(table, "encoder_table", lambda: "")
    table.main(["--backbone=resnet18", "--size=64x96"])
    printed = capsys.readouterr().out
    assert all(f"| `{name}` |" in printed for name in table.MODELS)
