"""CAGrad: conflict-averse gradient descent."""

import jax
import jax.numpy as jnp

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.stacked import Geometry, Predicate, from_geometry


@spec.gradient_balancing()
def cagrad(
    num_tasks: int,
    *,
    alpha: float = 0.5,
    scale: str = "raw",
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> spec.Transformation:
    """Seek, near the mean gradient, the direction that helps the worst-off task most.

    With g_0 = 1/K Σ_k g_k and c = α‖g_0‖, d maximizes min_k g_k·d over ‖d − g_0‖ ≤ c:

        d = g_0 + c g_w/‖g_w‖,   w = argmin g_w·g_0 + c‖g_w‖ over w ≥ 0, Σ_k w_k = 1,   g_w = Σ_k w_k g_k.

    α = 0 is the mean; a large α approaches MGDA's direction.

    Source: Liu et al. 2021, "Conflict-Averse Gradient Descent for Multi-task Learning", equation 4 and algorithm 1.
    Differences: solved exactly (LibMTL and the official code: SLSQP from 1/K). The scale `raw` is TorchJD's; LibMTL
        divides d by 1 + α², and the official code (with α 0.4) multiplies that by K.
    Degenerate inputs: equal gradients give 1 + α times that gradient. If the best g_w is 0 to within rounding (a convex
        combination of the gradients is 0), or the mean is 0 (opposite gradients), d is the mean, the middle of the
        ball; TorchJD gives 0, which is outside it. A zero gradient counts in the mean, and is left out of the minimum
        over k, which it would hold at 0 for any d: of the best directions, the others choose.

    Args:
        alpha: α, how far from the mean; 0.5 in LibMTL, 0.4 in the official scripts.
        scale: 'raw', 'libmtl' or 'official'.
    """
    options.not_negative("cagrad", alpha=alpha)
    factors = {"raw": 1.0, "libmtl": 1 / (1 + alpha**2), "official": num_tasks / (1 + alpha**2)}
    options.choice("cagrad", tuple(factors), scale=scale)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        towards = solvers.conflict_averse(geometry.norms, geometry.cosines, alpha)
        return factors[scale] * (jnp.full_like(towards, 1 / num_tasks) + towards), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
