"""GWGL: gradient weights and geometric loss."""

from collections.abc import Sequence

import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.geometric import geometric
from mtlflax.weighting.loss_balancing.gradnorm import gradnorm


@spec.loss_balancing(needs=("gradient_norms",), norms_of="last_shared")
def gwgl(
    alpha: float = 1.5,
    parametrization: str = "direct",
    initial_losses: Sequence[float] | None = None,
    learning_rate: float = 0.025,
    optimizer: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Chain `geometric` and `gradnorm`: GradNorm balances the gradients of the geometric mean.

    Formula:
        optax.chain(geometric(), gradnorm(...)): the weight of a task is the product of both. GradNorm sees ‖g_k‖ times
        the geometric weight GM / (K L_k).

    References:
        Mahyoub et al. 2023, "Semantic Segmentation and Depth Estimation of Urban Road Scene Images using Multi-Task
        Networks", which names this combination and does not define it: this is our reading.

    Args:
        alpha: as in `gradnorm`.
        parametrization: as in `gradnorm`.
        initial_losses: as in `gradnorm`.
        learning_rate: as in `gradnorm`.
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
    return optax.chain(geometric(), gradnorm(alpha, parametrization, initial_losses, learning_rate, optimizer))
