"""Who imports whom: what can be lifted out and used alone needs nothing else of the package."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mtlflax"
# Each needs none of the others, nor tasks, training or what runs them.
ALONE = ("weighting", "losses", "metrics", "models", "data")
SHARED = {"compiler", "errors", "files", "registry"}  # what anyone may need


def imported(file):
    """The parts of the package that a file imports, at its top or within functions."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("mtlflax.")}


def is_command(file):
    """Commands call the rest of the package."""
    return '__name__ == "__main__"' in file.read_text()


@pytest.mark.parametrize("part", ALONE)
def test_a_part_needs_no_other(part):
    folder = PACKAGE / part
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    assert files
    for file in files:
        if not is_command(file):
            assert imported(file) <= SHARED | {part}, file


def test_nothing_in_data_imports_jax():
    for file in sorted((PACKAGE / "data").rglob("*.py")):
        imports = [line for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not [line for line in imports if line.split()[1].split(".")[0] in ("jax", "flax", "optax")], file
