"""EWDW and GWGL, the combinations that Mahyoub et al. 2023 name; composed of the other methods.

Their paper, "Semantic Segmentation and Depth Estimation of Urban Road Scene Images using Multi-Task Networks", defines
neither. What the names stand for here is our reading.
"""

from collections.abc import Sequence

import optax

from mtlflax.weighting.loss_balancing.dwa import dwa
from mtlflax.weighting.loss_balancing.gradnorm import gradnorm
from mtlflax.weighting.loss_balancing.logarithmic import geometric


def ewdw(
    temperature: float = 2.0, steps_per_epoch: int = 1, window: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """EWDW, equal weights and dynamic weights: `dwa`, whose first two epochs have equal weights.

    Mahyoub et al. 2023 name this combination and do not define it; this is our reading.

    Args:
        temperature: as in `dwa`.
        steps_per_epoch: as in `dwa`.
        window: as in `dwa`.

    Raises:
        ValueError: as `dwa` does.

    >>> import jax.numpy as jnp
    >>> t = ewdw()
    >>> weights, _ = t.update(jnp.ones(2), t.init(jnp.zeros(2)), jnp.array([1.0, 4.0]))
    >>> weights.tolist()
    [1.0, 1.0]
    """
    return dwa(temperature, steps_per_epoch, window)


def gwgl(
    alpha: float = 1.5,
    parametrisation: str = "direct",
    initial_losses: Sequence[float] | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """GWGL, gradient weights and geometric loss: `optax.chain(geometric(), gradnorm(...))`.

    GradNorm balances the gradients that the geometric mean gives: ‖g_k‖ times the weight w_k = GM / (K L_k). The weight
    of a task is the product of both. `update` needs `gradient_norms`, as `gradnorm` does.

    Mahyoub et al. 2023 name this combination and do not define it; this is our reading.

    Args:
        alpha: as in `gradnorm`.
        parametrisation: as in `gradnorm`.
        initial_losses: as in `gradnorm`.
        optimizer: as in `gradnorm`.

    Raises:
        ValueError: as `gradnorm` does.

    >>> import jax.numpy as jnp
    >>> t = gwgl()
    >>> losses, norms = jnp.array([1.0, 4.0]), jnp.ones(2)
    >>> weights, _ = t.update(jnp.ones(2), t.init(jnp.zeros(2)), losses, gradient_norms=norms)
    >>> [round(float(w), 4) for w in weights]  # of the geometric mean, 2; GradNorm's are still 1
    [1.0, 0.25]
    """
    return optax.chain(geometric(), gradnorm(alpha, parametrisation, initial_losses, optimizer))
