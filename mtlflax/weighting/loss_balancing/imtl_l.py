"""The loss balance of impartial multi-task learning."""

import jax.numpy as jnp
import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.scales import learned


@spec.loss_balancing()
def imtl_l(
    initial: float = 0.0, learning_rate: float = 1e-4, optimizer: optax.GradientTransformation | None = None
) -> optax.GradientTransformationExtraArgs:
    """Learn scales that bring every loss to 1 (IMTL-L).

    Formula:
        total = Σ_k e^(s_k) L_k − s_k,   w_k = e^(s_k)

        and s descends on the same total. The best s for a constant loss is −log L. In a chain s is learned from the
        losses as they are, whatever the cotangents.

    References:
        Liu et al. 2021, "Towards Impartial Multi-task Learning", section 3.2.

    Differences from other implementations:
        LibMTL has it only together with IMTL-G, and learns s with the network's own optimizer.

    Degenerate inputs:
        As in `uncertainty`.

    Args:
        initial: s at the start; 0 as in the paper and LibMTL.
        learning_rate: of Adam, which learns s.
        optimizer: in place of Adam.

    Raises:
        ValueError: an initial value beyond ±50, a learning rate that is not positive.

    >>> t = imtl_l(optimizer=optax.sgd(0.1))
    >>> weights, state = t.update(jnp.ones(3), t.init(jnp.zeros(3)), jnp.array([1.0, 2.0, 4.0]))
    >>> weights.tolist(), [round(float(s), 4) for s in state.scales]  # the total is 7
    ([1.0, 1.0, 1.0], [0.0, -0.1, -0.3])
    """
    return learned(
        "imtl_l",
        jnp.exp,
        lambda weights, losses: weights * losses - 1,
        initial=initial,
        learning_rate=learning_rate,
        optimizer=optimizer,
    )
