"""Tables of a network's parameters and modules."""

import math
from collections.abc import Sequence
from typing import Any

import jax


def parameter_table(params: Any) -> str:
    """Return a line for each parameter (path, shape, count), and the total."""
    rows = [("parameter", "shape", "count")]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        rows.append((name, "×".join(map(str, leaf.shape)), f"{leaf.size:,}"))
    rows.append(("total", "", f"{sum(leaf.size for _, leaf in leaves):,}"))
    return _align(rows)


def module_table(params: Any) -> str:
    """Return a line for each module with its number of parameters, and the total."""
    counts = {name: sum(math.prod(x.shape) for x in jax.tree.leaves(sub)) for name, sub in params.items()}
    rows = [("module", "parameters")] + [(name, f"{count:,}") for name, count in counts.items()]
    return _align([*rows, ("total", f"{sum(counts.values()):,}")])


def _align(rows: Sequence[tuple[str, ...]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
