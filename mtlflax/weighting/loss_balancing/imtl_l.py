"""The loss balance of impartial multi-task learning."""

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.scales import learned


@spec.loss_balancing()
def imtl_l(
    initial: float = 0.0, learning_rate: float = 1e-4, optimizer: optax.GradientTransformation | None = None
) -> spec.Transformation:
    """Learn scales that bring every loss to 1 (IMTL-L).

    total = Σ_k e^(s_k) L_k − s_k,   w_k = e^(s_k), and s descends on the same total. The best s for a constant loss is
    −log L.

    Source: Liu et al. 2021, "Towards Impartial Multi-task Learning", section 3.2.
    Differences: LibMTL has it only together with IMTL-G, and learns s with the network's own optimizer.
    Degenerate inputs and chains: as in `uncertainty`.

    Args:
        initial: s at the start, within ±50; 0 as in the paper and LibMTL.
        learning_rate: of s.
        optimizer: of s.
    """

    def slope(weights: jax.Array, losses: jax.Array) -> jax.Array:
        return weights * losses - 1

    return learned("imtl_l", jnp.exp, slope, initial, learning_rate, optimizer)
