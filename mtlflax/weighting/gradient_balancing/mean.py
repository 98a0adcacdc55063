"""The mean of the gradients, a baseline."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from mtlflax.weighting import spec
from mtlflax.weighting.stacked import from_geometry


@spec.gradient_balancing()
def mean(
    num_tasks: int, *, shared: Callable[[str], bool] | None = None, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Average the gradients: gradient descent on the mean of the losses.

    Formula:
        d = 1/K Σ_k g_k

    >>> t = mean(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> d.tolist()
    [1.0, 1.0, 1.0]
    """
    return from_geometry(
        lambda geometry, losses, inner: (jnp.full_like(geometry.norms, 1 / num_tasks), inner),
        num_tasks=num_tasks,
        shared=shared,
        axis_name=axis_name,
    )
