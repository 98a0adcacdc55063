"""Sum and mean: the baselines, with no balancing in them."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from mtlflax.weighting.stacked import from_geometry


def sum(
    num_tasks: int, *, shared: Callable[[str], bool] | None = None, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """The sum of the gradients, d = Σ_k g_k: gradient descent on the sum of the losses.

    Args:
        num_tasks: K.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

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


def mean(
    num_tasks: int, *, shared: Callable[[str], bool] | None = None, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """The mean of the gradients, d = 1/K Σ_k g_k: gradient descent on the mean of the losses.

    Args:
        num_tasks: K.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

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
