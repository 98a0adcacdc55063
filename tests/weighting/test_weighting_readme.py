"""The page beside the weightings: its code runs, its table is true."""

import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import weighting as weighting_config
from mtlflax import experiment, weighting
from mtlflax.errors import UserError

PAGE = (Path(weighting.__file__).parent / "README.md").read_text()


CODE = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))


def test_its_code_runs():
    assert PAGE.count("```python") == 4
    names = {}
    exec(CODE, names)
    assert names["gradient"]["w"].shape == (3,)
    assert names["updates"]["w"].shape == (3,)


def rows(column):
    """Method → what the table has in that column."""
    found = {}
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[column])
    return found


def test_a_config_names_a_method_of_ones_own(monkeypatch, tmp_path):
    (tmp_path / "my_module.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    config = weighting_config.get_config("equal,quick")
    config.weighting = ConfigDict({"name": "my_module:agreement", "sharpness": 2.0})
    method = experiment.build(config).method
    assert (method.spec.name, method.level) == ("agreement", "parameters")
    config.weighting.temperature = 1.0
    with pytest.raises(UserError, match="temperature is no option of my_module:agreement"):
        experiment.build(config)


def test_its_tables_have_every_option():
    for name, cell in rows(2).items():
        options = {key: str(value) for key, value in weighting.options(name).items() if key != "level"}
        there = dict(option.split("=") for option in re.findall(r"`([^`]+)`", cell))
        assert there == options, name


def test_its_tables_have_every_method():
    assert sorted(rows(0)) == sorted(weighting.names())
