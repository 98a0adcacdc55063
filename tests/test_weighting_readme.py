"""The page beside the weightings: its code runs, its table is true."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from mtlflax import weighting

PAGE = (Path(weighting.__file__).parent / "README.md").read_text()


def test_its_code_runs(monkeypatch):
    monkeypatch.setattr(weighting.gradient_balancing, "METHODS", dict(weighting.gradient_balancing.METHODS))
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["gradient"]["w"].shape == (3,)
    assert "agreement" in weighting.names()


def rows():
    """Method → its state's size as the table has it."""
    found = {}
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            names, _, _, state = (cell.strip() for cell in line.strip("|").split("|"))
            found |= dict.fromkeys(re.findall(r"`(\w+)`", names), state)
    return found


def test_its_tables_have_every_method():
    assert sorted(rows()) == sorted(weighting.names())


@pytest.mark.parametrize("name", weighting.names())
def test_the_size_of_the_state_is_as_the_table_says(name):
    formula = rows()[name].replace("K²", "K*K").replace("KP", "K*P")
    formula = re.sub(r"(\d)K", r"\1*K", formula)
    for num_tasks, size in ((2, 10), (3, 7), (5, 4)):
        options = {"weights": (1.0,) * num_tasks} if name == "constant" else {}
        state = weighting.get(name, num_tasks=num_tasks, **options).init({"w": jnp.zeros(size)})
        expected = eval(formula, {"K": num_tasks, "P": size})
        assert sum(leaf.size for leaf in jax.tree.leaves(state)) == expected
