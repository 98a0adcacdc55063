"""Export to ONNX, by the extra `onnx`: a graph made from the network's jaxpr, and ONNX Runtime to check it.

What depends on the images becomes nodes (`onnx_operators` has one function per JAX primitive); all else, such as a
BatchNorm's factors, is computed now and stored. Operators are those of opset 18, which ONNX Runtime reads since 1.14.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
from jax.extend.core import ClosedJaxpr, Literal
from onnx import helper

from mtlflax.export.onnx_graph import Graph, Value, is_fixed, tensor_type, unsupported
from mtlflax.export.onnx_operators import OPERATORS

Predict = Callable[[Any], dict[str, Any]]

_OPSET, _IR = 18, 8  # the IR version that came with the opset
_IMAGES = "images"
# Primitives that only call a function → the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
}


def convert(predict: Predict, size: tuple[int, int], metadata: Mapping[str, Any]) -> bytes:
    """Return a function as an ONNX model.

    Args:
        predict: images, uint8 [B, H, W, 3] → name → float32 [B, H, W, channels].
        size: (H, W) of the images; B stays open.
        metadata: JSON, stored in the model's `metadata_props`, each value as JSON text.

    Raises:
        UserError: the function uses something that has no conversion.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *size, 3), np.uint8)
    function, shapes = jax.make_jaxpr(predict, return_shape=True)(images)
    graph = Graph(_IMAGES, batch)
    results = add_function(graph, function, [_IMAGES])

    # jax flattens a dict in the order of its sorted keys.
    outputs = []
    for (path, shape), result in zip(jax.tree.leaves_with_path(shapes), results, strict=True):
        task = path[0].key
        graph.nodes.append(helper.make_node("Identity", [graph.name(result)], [task]))
        outputs.append(_tensor(task, shape))
    made = helper.make_graph(graph.nodes, "mtlflax", [_tensor(_IMAGES, images)], outputs, list(graph.constants.values()))
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(made, opset_imports=[opset], ir_version=_IR, producer_name="mtlflax")
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    return model.SerializeToString()


def load(model: bytes) -> Predict:
    """Return the function that a model computes, on NumPy arrays, by ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {_IMAGES: np.asarray(images)}), strict=True))


def add_function(graph: Graph, function: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
    """Add a traced function to a graph; return its outputs, which are constants where they depend on no input.

    UserError if it uses a primitive that `OPERATORS` does not have.
    """
    jaxpr = function.jaxpr
    values: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*function.consts, *inputs], strict=True))

    def read(atom: Any) -> Value:
        return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        name, operands = equation.primitive.name, [read(atom) for atom in equation.invars]
        if name in _CALLS:
            called = equation.params[_CALLS[name]]
            closed = called if isinstance(called, ClosedJaxpr) else ClosedJaxpr(called, ())
            results: Any = add_function(graph, closed, operands)
        elif _is_constant(equation, operands):
            results = equation.primitive.bind(*operands, **equation.params)
            results = results if equation.primitive.multiple_results else [results]
        elif name in OPERATORS:
            results = OPERATORS[name](graph, equation, *operands)
            results = results if isinstance(results, list) else [results]
        else:
            raise unsupported(f"JAX's primitive {name!r}, which mtlflax.export.onnx_operators does not have")
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _is_constant(equation: Any, operands: Sequence[Value]) -> bool:
    fixed = all(is_fixed(dim) for result in equation.outvars for dim in result.aval.shape)
    return fixed and not any(isinstance(operand, str) for operand in operands)


def _tensor(name: str, array: Any) -> onnx.ValueInfoProto:
    dims = [dim if is_fixed(dim) else "batch" for dim in array.shape]
    return helper.make_tensor_value_info(name, tensor_type(array.dtype), dims)
