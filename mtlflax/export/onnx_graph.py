"""An ONNX graph under construction: its nodes, its constants, and shapes in which the batch size is open."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mtlflax.errors import UserError

Operator = Callable[..., Any]  # (graph, equation, *operands) → the result's name, or the names of several
Value = Any  # a tensor's name in the graph (str), or a constant: a NumPy or JAX array


class Graph:
    """The nodes and constants so far.

    Attributes:
        nodes: in an order in which they can be computed.
        constants: name → tensor.
        images: the name of the input whose first axis is the batch.
        batch: the symbolic dimension that stands for its size in traced shapes.
    """

    def __init__(self, images: str, batch: Any) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.images, self.batch = images, batch

    def add(self, operator: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return the name of what it computes, or the names if it has several outputs."""
        names = [f"{operator.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, [self.name(x) for x in inputs], names, **attributes))
        return names[0] if outputs == 1 else names

    def name(self, value: Value) -> str:
        """Return the name of a tensor; a constant is stored, once for all its uses."""
        if isinstance(value, str):
            return value
        array = np.ascontiguousarray(value).reshape(np.shape(value))  # which makes a scalar an array of one
        tensor_type(array.dtype)
        content = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        name = f"constant_{content.hexdigest()[:24]}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def shape(self, dims: Sequence[Any]) -> Value:
        """Return a shape as an int64 vector; where a dimension is the batch, it is read from the images."""
        if all(is_fixed(dim) for dim in dims):
            return np.array(dims, np.int64)
        if any(not is_fixed(dim) and dim != self.batch for dim in dims):
            raise unsupported(f"a tensor of shape {tuple(dims)}")
        size = self.add("Shape", self.images, start=0, end=1)
        return self.add("Concat", *(np.array([dim], np.int64) if is_fixed(dim) else size for dim in dims), axis=0)


def is_fixed(dim: Any) -> bool:
    """Return whether a dimension of a traced shape is a number, rather than an expression in the batch size."""
    return isinstance(dim, int | np.integer)


def tensor_type(dtype: Any) -> int:
    """Return ONNX's number of a dtype; UserError for one that ONNX Runtime does not compute with on a CPU."""
    if np.dtype(dtype).name == "bfloat16":
        raise unsupported("bfloat16, which ONNX Runtime has no convolution for on a CPU")
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def unsupported(what: str) -> UserError:
    """Return the error for a network with something that has no counterpart here."""
    return UserError(f"the network cannot be written as ONNX: it uses {what}. Export it as .stablehlo instead")
