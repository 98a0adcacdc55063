"""Equal weights."""

import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.constant import constant


@spec.loss_balancing()
def equal() -> optax.GradientTransformationExtraArgs:
    """Give every task the weight 1: the plain sum of the losses.

    >>> import jax.numpy as jnp
    >>> t = equal()
    >>> weights, _ = t.update(jnp.ones(2), t.init(jnp.zeros(2)), jnp.array([3.0, 5.0]))
    >>> weights.tolist()
    [1.0, 1.0]
    """
    return constant()
