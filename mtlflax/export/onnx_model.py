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

from mtlflax.errors import UserError, describe
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
    "remat2": "jaxpr",
}


def convert(predict: Predict, size: tuple[int, int], metadata: Mapping[str, Any]) -> bytes:
    """Return a function as an ONNX model.

    Args:
        predict: images, uint8 [B, H, W, 3] → name → float32 [B, H, W, channels].
        size: (H, W) of the images; B stays open.
        metadata: JSON, stored in the model's `metadata_props`, each value as JSON text.

    Raises:
        UserError: the function cannot be traced with an open batch size, or uses something that has no conversion.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *size, 3), np.uint8)
    try:
        function, shapes = jax.make_jaxpr(predict, return_shape=True)(images)
    except Exception as error:  # whatever jax makes of a network of one's own that looks at its batch size
        raise UserError(f"the network cannot be traced for any batch size: {describe(error)}") from error
    graph = Graph(_IMAGES, batch)
    results = add_function(graph, function, [_IMAGES])

    # jax flattens a dict in the order of its sorted keys.
    outputs = []
    for (path, shape), result in zip(jax.tree.leaves_with_path(shapes), results, strict=True):
        task = path[0].key
        graph.nodes.append(helper.make_node("Identity", [graph.name(result)], [task]))
        outputs.append(_tensor(task, shape))
    constants = list(graph.constants.values())
    made = helper.make_graph(graph.nodes, "mtlflax", [_tensor(_IMAGES, images)], outputs, constants)
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(made, opset_imports=[opset], ir_version=_IR, producer_name="mtlflax")
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    return model.SerializeToString()


def load(model: bytes) -> Predict:
    """Return what a model computes as a function of NumPy arrays, by ONNX Runtime; UserError if it cannot."""
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a class for each of a dozen codes
        raise UserError(f"ONNX Runtime does not accept the model: {describe(error)}") from error
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {_IMAGES: np.asarray(images)}), strict=True))


def add_function(graph: Graph, function: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
    """Add a traced function to a graph; return its outputs, which are constants where they depend on no input.

    UserError if it uses a primitive that `OPERATORS` does not have.
    """
    jaxpr = function.jaxpr
    values: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*function.consts, *inputs], strict=True))

    def read(atom: Any) -> Value:
        if not isinstance(atom, Literal):
            return values[atom]
        kind: Any = atom.aval
        return np.asarray(atom.val, kind.dtype)

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
