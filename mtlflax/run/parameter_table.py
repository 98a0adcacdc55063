"""What a network is made of: its parameters, as a table."""

import math
from collections.abc import Sequence
from typing import Any

import jax


def parameter_table(params: Any) -> str:
    """All parameters: path, shape and count, a line each, and the total."""
    rows = [("parameter", "shape", "count")]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        rows.append((name, "×".join(map(str, leaf.shape)), f"{leaf.size:,}"))
    rows.append(("total", "", f"{sum(leaf.size for _, leaf in leaves):,}"))
    return _align(rows)


def module_table(params: Any) -> str:
    """The network's modules and how many parameters each has, a line each, and the total."""
    counts = {name: sum(math.prod(x.shape) for x in jax.tree.leaves(sub)) for name, sub in params.items()}
    rows = [("module", "parameters")] + [(name, f"{count:,}") for name, count in counts.items()]
    return _align([*rows, ("total", f"{sum(counts.values()):,}")])


def _align(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of one width each: the first flush left, the others flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
