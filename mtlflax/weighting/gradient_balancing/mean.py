"""The mean of the gradients, a baseline."""

import jax.numpy as jnp

from mtlflax.weighting import spec
from mtlflax.weighting.stacked import Predicate, from_geometry


@spec.gradient_balancing()
def mean(num_tasks: int, *, shared: Predicate | None = None, axis_name: str | None = None) -> spec.Transformation:
    """Average the gradients, d = 1/K Σ_k g_k: gradient descent on the mean of the losses."""
    return from_geometry(
        lambda geometry, losses, inner: (jnp.full_like(geometry.norms, 1 / num_tasks), inner),
        num_tasks=num_tasks,
        shared=shared,
        axis_name=axis_name,
    )
