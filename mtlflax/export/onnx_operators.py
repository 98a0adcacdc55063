"""JAX primitives as ONNX operators (opset 18): `OPERATORS[primitive](graph, equation, *operands)` → the result's name.

These are the primitives that networks of convolutions use. Whoever misses one adds a function here: the check against
the network (`check`) says whether it is right.
"""

import string
from typing import Any

import numpy as np

from mtlflax.export.onnx_graph import Graph, Operator, Value, tensor_type, unsupported
from mtlflax.export.onnx_shapes import SHAPES, transposed

# Element by element, with the same meaning in both.
_ALIKE = {
    "abs": "Abs",
    "add": "Add",
    "and": "And",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}


def _alike(operator: str) -> Operator:
    return lambda graph, equation, *operands: graph.add(operator, *operands)


def _reduction(operator: str) -> Operator:
    def add(graph: Graph, equation: Any, x: Value) -> str:
        return graph.add(operator, x, np.array(equation.params["axes"], np.int64), keepdims=0)

    return add


def _same(graph: Graph, equation: Any, x: Value) -> Value:
    return x


def _cast(graph: Graph, equation: Any, x: Value) -> str:
    return graph.add("Cast", x, to=tensor_type(equation.params["new_dtype"]))


def _unequal(graph: Graph, equation: Any, a: Value, b: Value) -> str:
    return graph.add("Not", graph.add("Equal", a, b))


def _rsqrt(graph: Graph, equation: Any, x: Value) -> str:
    return graph.add("Reciprocal", graph.add("Sqrt", x))


def _square(graph: Graph, equation: Any, x: Value) -> str:
    return graph.add("Mul", x, x)


def _integer_pow(graph: Graph, equation: Any, x: Value) -> str:
    return graph.add("Pow", x, np.array(equation.params["y"], equation.invars[0].aval.dtype))


def _log1p(graph: Graph, equation: Any, x: Value) -> str:
    return graph.add("Log", graph.add("Add", x, np.ones((), equation.invars[0].aval.dtype)))


def _erfc(graph: Graph, equation: Any, x: Value) -> str:
    return graph.add("Sub", np.ones((), equation.invars[0].aval.dtype), graph.add("Erf", x))


def _clamp(graph: Graph, equation: Any, least: Value, x: Value, most: Value) -> str:
    return graph.add("Min", graph.add("Max", x, least), most)


def _select(graph: Graph, equation: Any, which: Value, *cases: Value) -> str:
    if equation.invars[0].aval.dtype != bool or len(cases) != 2:
        raise unsupported("a choice among more than two")
    return graph.add("Where", which, cases[1], cases[0])


def _argmax(graph: Graph, equation: Any, x: Value) -> str:
    (axis,) = equation.params["axes"]
    found = graph.add("ArgMax", x, axis=int(axis), keepdims=0)
    return graph.add("Cast", found, to=tensor_type(equation.params["index_dtype"]))


def _conv(graph: Graph, equation: Any, x: Value, kernel: Value) -> Value:
    """ONNX has images as [B, C, H, W] and kernels as [features, C, k, k]."""
    p = equation.params
    d, padding = p["dimension_numbers"], np.array(p["padding"])
    if any(step != 1 for step in p["lhs_dilation"]) or p["batch_group_count"] != 1 or padding.min(initial=0) < 0:
        raise unsupported("a transposed convolution")
    y = graph.add(
        "Conv",
        transposed(graph, x, d.lhs_spec),
        transposed(graph, kernel, d.rhs_spec),
        strides=[int(step) for step in p["window_strides"]],
        dilations=[int(step) for step in p["rhs_dilation"]],
        pads=[int(n) for n in padding.T.ravel()],
        group=int(p["feature_group_count"]),
    )
    return transposed(graph, y, np.argsort(d.out_spec).tolist())


def _dot_general(graph: Graph, equation: Any, a: Value, b: Value) -> str:
    (a_sums, b_sums), (a_batch, b_batch) = equation.params["dimension_numbers"]
    a_rank, b_rank = (len(atom.aval.shape) for atom in equation.invars)
    if not a_batch and (tuple(a_sums), tuple(b_sums), b_rank) == ((a_rank - 1,), (0,), 2):
        return graph.add("MatMul", a, b)
    letters = iter(string.ascii_lowercase)
    a_axes, b_axes = [next(letters) for _ in range(a_rank)], [next(letters) for _ in range(b_rank)]
    for i, j in zip([*a_batch, *a_sums], [*b_batch, *b_sums], strict=True):
        b_axes[j] = a_axes[i]
    shared, summed = [a_axes[i] for i in a_batch], [a_axes[i] for i in a_sums]
    kept = [axis for axis in a_axes + b_axes if axis not in shared + summed]
    return graph.add("Einsum", a, b, equation="{},{}->{}".format(*map("".join, (a_axes, b_axes, shared + kept))))


OPERATORS: dict[str, Operator] = {
    **{primitive: _alike(operator) for primitive, operator in _ALIKE.items()},
    **{primitive: _reduction(operator) for primitive, operator in _REDUCTIONS.items()},
    **SHAPES,
    "argmax": _argmax,
    "clamp": _clamp,
    "conv_general_dilated": _conv,
    "convert_element_type": _cast,
    "copy": _same,
    "dot_general": _dot_general,
    "erfc": _erfc,
    "integer_pow": _integer_pow,
    "log1p": _log1p,
    "ne": _unequal,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "square": _square,
    "stop_gradient": _same,
}
