"""The page beside the weightings: its code runs, its table is true."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import FieldReference

from configs import weighting as weighting_config
from mtlflax import experiment, weighting

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


def rows(column):
    """Method → what the table has in that column."""
    found = {}
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[column])
    return found


def test_a_config_file_trains_with_a_method_of_its_own(monkeypatch):
    monkeypatch.setattr(weighting.gradient_balancing, "METHODS", dict(weighting.gradient_balancing.METHODS))
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    for block in code:
        exec(block, names)
    config = weighting_config.get_config("agreement,quick")
    assert config.weighting.sharpness == 1.0
    assert experiment.build(config).method.level == "parameters"


def test_its_tables_have_every_option():
    for name, cell in rows(2).items():
        options = weighting_config.options(name)
        del options["name"]
        for key in ("level", "independent", "norms_of"):
            options.pop(key, None)
        there = dict((*option.split("="), None)[:2] for option in re.findall(r"`([^`]+)`", cell))
        assert there.keys() == options.keys(), name
        for key, default in there.items():
            if default is not None:
                here = options[key]
                here = here.get() if isinstance(here, FieldReference) else here  # a placeholder, for None
                assert str(here) == default, (name, key)


def test_its_tables_have_every_method():
    assert sorted(rows(0)) == sorted(weighting.names())


@pytest.mark.parametrize("name", weighting.names())
def test_the_size_of_the_state_is_as_the_table_says(name):
    formula = rows(4)[name].replace("K²", "K*K").replace("KP", "K*P")
    formula = re.sub(r"(\d)K", r"\1*K", formula)
    for num_tasks, size in ((2, 10), (3, 7), (5, 4)):
        options = {"weights": (1.0,) * num_tasks} if name == "constant" else {}
        state = weighting.get(name, num_tasks=num_tasks, **options).init({"w": jnp.zeros(size)})
        expected = eval(formula, {"K": num_tasks, "P": size})
        assert sum(leaf.size for leaf in jax.tree.leaves(state)) == expected
