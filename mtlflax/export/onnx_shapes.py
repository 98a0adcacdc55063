"""JAX primitives that only move values, as ONNX operators: shapes, parts, joins, indexing.

`SHAPES[primitive](graph, equation, *operands)` → the result's name, or a constant.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtlflax.export.onnx_graph import Graph, Operator, Value, is_fixed, unsupported


def _reshaped(graph: Graph, x: Value, dims: Sequence[Any]) -> Value:
    """Return x in another shape; at most one dimension depends on the batch, and is left for ONNX to compute."""
    if sum(not is_fixed(dim) for dim in dims) > 1:
        raise unsupported(f"a tensor of shape {tuple(dims)}")
    shape = np.array([dim if is_fixed(dim) else -1 for dim in dims], np.int64)
    return graph.add("Reshape", x, shape) if isinstance(x, str) else np.reshape(np.asarray(x), shape)


def transposed(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    """Return x with its axes in another order: output axis i is x's axis `axes[i]`."""
    axes = [int(axis) for axis in axes]
    return graph.add("Transpose", x, perm=axes) if isinstance(x, str) else np.transpose(np.asarray(x), axes)


def _reshape(graph: Graph, equation: Any, x: Value) -> Value:
    return _reshaped(graph, x, equation.outvars[0].aval.shape)


def _transpose(graph: Graph, equation: Any, x: Value) -> Value:
    return transposed(graph, x, equation.params["permutation"])


def _broadcast_in_dim(graph: Graph, equation: Any, x: Value, *dynamic: Value) -> Value:
    given, wanted = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    if 0 in wanted and all(map(is_fixed, wanted)):  # padding by 0 pixels has it
        return np.zeros(wanted, equation.outvars[0].aval.dtype)
    dims: list[Any] = [1] * len(wanted)
    for axis, dim in zip(equation.params["broadcast_dimensions"], given, strict=True):
        dims[axis] = dim
    x = _reshaped(graph, x, dims)
    if all(dim == target for dim, target in zip(dims, wanted, strict=True)):
        return x
    # A 1 leaves the dimension as it is.
    factors = [1 if dim == target else target for dim, target in zip(dims, wanted, strict=True)]
    return graph.add("Expand", x, graph.shape(factors))


def _concatenate(graph: Graph, equation: Any, *parts: Value) -> str:
    axis = int(equation.params["dimension"])
    full = [part for part, atom in zip(parts, equation.invars, strict=True) if atom.aval.shape[axis] != 0]
    return graph.add("Concat", *full, axis=axis)


def _stack(graph: Graph, equation: Any, *parts: Value) -> str:
    axis = int(equation.params["axis"])
    parts = tuple(graph.add("Unsqueeze", part, np.array([axis], np.int64)) for part in parts)
    return graph.add("Concat", *parts, axis=axis)


def _split(graph: Graph, equation: Any, x: Value) -> list[str]:
    sizes = np.array(equation.params["sizes"], np.int64)
    names = graph.add("Split", x, sizes, outputs=len(sizes), axis=int(equation.params["axis"]))
    return names if isinstance(names, list) else [names]


def _pad(graph: Graph, equation: Any, x: Value, value: Value) -> str:
    low, high, interior = zip(*equation.params["padding_config"], strict=True)
    if any(interior):
        raise unsupported("padding between the pixels")
    return graph.add("Pad", x, np.array([*low, *high], np.int64), value, mode="constant")


def _slice(graph: Graph, equation: Any, x: Value) -> str:
    p = equation.params
    return _cut(graph, equation, x, p["start_indices"], p["limit_indices"], p["strides"])


def _dynamic_slice(graph: Graph, equation: Any, x: Value, *starts: Value) -> str:
    if any(isinstance(start, str) for start in starts):
        raise unsupported("a slice at a position that depends on the image")
    return _window(graph, equation, x, dict(enumerate(map(int, starts))))


def _window(graph: Graph, equation: Any, x: Value, starts: dict[int, int]) -> str:
    """Return the part of x that starts at the given positions (axis → position, else 0), moved to be inside."""
    dims, sizes = equation.invars[0].aval.shape, equation.params["slice_sizes"]
    firsts = [0] * len(dims)
    for axis, start in starts.items():
        firsts[axis] = min(max(start, 0), dims[axis] - sizes[axis]) if is_fixed(dims[axis]) else 0
    ends = [first + size if first else size for first, size in zip(firsts, sizes, strict=True)]
    return _cut(graph, equation, x, firsts, ends, None)


def _cut(graph: Graph, equation: Any, x: Value, starts: Any, ends: Any, steps: Any) -> str:
    dims = equation.invars[0].aval.shape
    whole = [(0, dim, 1) for dim in dims]
    parts = list(zip(starts, ends, steps or [1] * len(dims), strict=True))
    cut = [axis for axis in range(len(dims)) if parts[axis] != whole[axis]]
    if not cut:
        return x
    bounds = np.array([(*(_bound(n, dims[axis]) for n in parts[axis][:2]), parts[axis][2]) for axis in cut], np.int64)
    return graph.add("Slice", x, bounds[:, 0], bounds[:, 1], np.array(cut, np.int64), bounds[:, 2])


def _bound(bound: Any, dim: Any) -> int:
    """Return a position along an axis; one that is given from the end of the batch is negative, as in Python."""
    if is_fixed(bound):
        return bound
    back = dim - bound
    if not is_fixed(back):
        raise unsupported("a part of the batch whose length depends on it")
    return -int(back) if back else np.iinfo(np.int64).max


def _gather(graph: Graph, equation: Any, x: Value, indices: Value) -> str:
    """As `x[:, 3:9]`, `x[:, ::2, ::2]` or `x[..., 0]`, which JAX traces as a gather where the batch size is open."""
    d, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    dims, rank = equation.invars[0].aval.shape, len(equation.outvars[0].aval.shape)
    axes = d.start_index_map
    if isinstance(indices, str) or d.operand_batching_dims:
        raise unsupported("indexing with values that depend on the image")
    positions = np.asarray(indices).astype(np.int64)  # [..., axes]
    if not d.collapsed_slice_dims and positions.ndim == 1:
        return _window(graph, equation, x, dict(zip(axes, positions.tolist(), strict=True)))

    placed = tuple(i for i in range(rank) if i not in d.offset_dims)
    whole = all(sizes[i] == dim for i, dim in enumerate(dims) if i not in axes)
    if d.collapsed_slice_dims != axes or not whole or (placed != axes if positions.ndim > 1 else placed):
        raise unsupported("indexing of a kind other than x[:, rows, columns]")
    for k, axis in reversed(list(enumerate(axes))):  # from the last: an axis may vanish
        along = positions[..., k] if positions.ndim == 1 else np.moveaxis(positions[..., k], k, 0)
        line = along if along.ndim < 2 else along.reshape(len(along), -1)[:, 0]
        same = along.ndim < 2 or bool((along.reshape(len(along), -1) == line[:, None]).all())
        if not same or not is_fixed(dims[axis]) or not (0 <= line.min() <= line.max() < dims[axis]):
            raise unsupported("indexing of a kind other than x[:, rows, columns], inside the map")
        x = graph.add("Gather", x, line, axis=int(axis))
    return x


SHAPES: dict[str, Operator] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "squeeze": _reshape,
    "stack": _stack,
    "transpose": _transpose,
}
