"""The page beside the networks: its code runs, it names every network and every kind of attention."""

import re
from pathlib import Path

import pytest

from mtlflax import models
from mtlflax.models import __main__ as table
from mtlflax.models.attention import KINDS

PAGE = (Path(models.__file__).parent / "README.md").read_text()


def test_its_code_runs():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(block, names)
    assert names["outputs"]["segmentation"].shape == (1, 64, 96, 19)


def test_it_names_every_network_and_attention():
    for name in models.MODELS:
        assert re.search(rf"\| `{name}` \| .* \| `configs/", PAGE), name  # in the list
        assert re.search(rf"\| `{name}` \| \d", PAGE), name  # in the table of sizes
    for name in KINDS:
        assert f"| `{name}` |" in PAGE, name


@pytest.mark.slow
def test_its_tables_are_the_commands():
    assert table.encoder_table() in PAGE
    assert table.network_table("resnet50", (128, 256), 19) in PAGE
