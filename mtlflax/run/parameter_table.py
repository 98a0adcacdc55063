"""Tables of a network's parameters and modules."""

from collections.abc import Iterable
from typing import Any

import jax


def parameter_table(params: Any) -> str:
    """Return a line for each parameter (path, shape, count), and the total."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    rows = [(name, "×".join(map(str, leaf.shape)), leaf.size) for name, (_, leaf) in zip(names, leaves, strict=True)]
    return _table(("parameter", "shape", "count"), rows)


def module_table(params: Any) -> str:
    """Return a line for each module with its number of parameters, and the total."""
    rows = [(name, sum(x.size for x in jax.tree.leaves(module))) for name, module in params.items()]
    return _table(("module", "parameters"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """Align columns, the first to the left, the others, of which the last is a count, to the right."""
    total = ("total", *[""] * (len(head) - 2), sum(row[-1] for row in rows))
    cells = [head, *((*row[:-1], f"{row[-1]:,}") for row in (*rows, total))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
