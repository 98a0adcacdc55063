"""FairGrad: α-fair shares of the improvement."""

from collections.abc import Callable

import jax
import optax

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.stacked import Geometry, from_geometry


@spec.gradient_balancing()
def fairgrad(
    num_tasks: int,
    *,
    alpha: float = 1.0,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Share the improvement among the tasks α-fairly.

    Formula:
        With G = J Jᵀ, the x > 0 that solves

            G x = x^(−1/α),   d = Jᵀ x.

        α = 1 is proportional fairness, the Nash solution without its clipping; a large α favors the task that improves
        least.

    References:
        Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", section 4.

    Differences from other implementations:
        LibMTL and TorchJD minimize the residual by least squares; here Newton's method solves it exactly (tested for α
        from 0.2 to 5, lengths up to 1e4 apart; farther apart, weights of the shortest gradients lose digits, d does
        not). LibMTL and the official code weigh task-specific parameters by x too.

    Degenerate inputs:
        As in `nash_mtl`, but d is not shortened. x goes with ‖g‖^(−2α/(1+α)): in float32 gradients shorter than 1e-25
        are too short for α = 2.

    Args:
        alpha: α; 1 in LibMTL, 2 in the official Cityscapes script.

    Raises:
        ValueError: an α that is not positive.

    >>> import jax.numpy as jnp
    >>> t = fairgrad(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.0766, 0.9985, 0.9985]
    """
    options.positive("fairgrad", alpha=alpha)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        return solvers.fair(geometry.norms, geometry.cosines, alpha), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
