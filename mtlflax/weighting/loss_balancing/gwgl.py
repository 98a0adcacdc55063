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
) -> spec.Transformation:
    """Chain `geometric` and `gradnorm`, whose options these are: GradNorm balances the gradients of the geometric mean.

    The weight of a task is the product of both. GradNorm sees ‖g_k‖ times the geometric weight GM / (K L_k).

    Source: Mahyoub et al. 2023, "Semantic Segmentation and Depth Estimation of Urban Road Scene Images using Multi-Task
        Networks", which names this combination and does not define it: this is our reading.
    """
    return optax.chain(geometric(), gradnorm(alpha, parametrization, initial_losses, learning_rate, optimizer))
