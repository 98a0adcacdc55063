"""The sum of the gradients, a baseline."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from mtlflax.weighting import spec
from mtlflax.weighting.stacked import from_geometry


@spec.gradient_balancing()
def sum(
    num_tasks: int, *, shared: Callable[[str], bool] | None = None, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Add the gradients: gradient descent on the sum of the losses.

    Formula:
        d = Σ_k g_k

    >>> t = sum(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> d.tolist()
    [2.0, 2.0, 2.0]
    """
    return from_geometry(
        lambda geometry, losses, inner: (jnp.ones_like(geometry.norms), inner),
        num_tasks=num_tasks,
        shared=shared,
        axis_name=axis_name,
    )
