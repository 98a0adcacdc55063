"""What a network costs: its parameters, and the multiply-adds of a forward pass."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import unfreeze


def count(model: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Return the number of parameters, and the multiply-adds of a forward pass on one image of that size [H, W]."""
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = unfreeze(jax.eval_shape(model.init, jax.random.key(0), images))
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return parameters, multiply_adds(jax.make_jaxpr(model.apply)(variables, images).jaxpr)


def multiply_adds(jaxpr: Any) -> int:
    """Return the multiply-adds of all convolutions and matrix products of a traced function, nested calls included.

    `jax.image.resize` is not counted: its products with matrices of weights are a way to write a sum of neighbors.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.params.get("name") == "_resize":
            continue
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            total += multiply_adds(inner) if hasattr(inner, "eqns") else 0
        outputs = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += outputs * math.prod(kernel) // features
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += outputs * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return total
