"""EWDW: equal weights, then dynamic weights."""

import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.dwa import dwa


@spec.loss_balancing()
def ewdw(
    temperature: float = 2.0, steps_per_epoch: int | None = None, window: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """Average weights dynamically after two epochs of equal weights: `dwa`, under the paper's name.

    References:
        Mahyoub et al. 2023, "Semantic Segmentation and Depth Estimation of Urban Road Scene Images using Multi-Task
        Networks", which names this combination and does not define it: this is our reading.

    Args:
        temperature: as in `dwa`.
        steps_per_epoch: as in `dwa`.
        window: as in `dwa`.

    Raises:
        ValueError: as `dwa` does.

    >>> import jax.numpy as jnp
    >>> t = ewdw(steps_per_epoch=1)
    >>> weights, _ = t.update(jnp.ones(2), t.init(jnp.zeros(2)), jnp.array([1.0, 4.0]))
    >>> weights.tolist()
    [1.0, 1.0]
    """
    return dwa(temperature, steps_per_epoch, window)
