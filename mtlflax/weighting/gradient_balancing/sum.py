"""The sum of the gradients, a baseline."""

import jax.numpy as jnp

from mtlflax.weighting import spec
from mtlflax.weighting.stacked import Predicate, from_geometry


@spec.gradient_balancing()
def sum(num_tasks: int, *, shared: Predicate | None = None, axis_name: str | None = None) -> spec.Transformation:
    """Add the gradients, d = Σ_k g_k: gradient descent on the sum of the losses."""
    return from_geometry(
        lambda geometry, losses, inner: (jnp.ones_like(geometry.norms), inner),
        num_tasks=num_tasks,
        shared=shared,
        axis_name=axis_name,
    )
