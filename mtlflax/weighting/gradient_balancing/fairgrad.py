"""FairGrad: α-fair shares of the improvement."""

import jax

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.stacked import Geometry, Predicate, from_geometry


@spec.gradient_balancing()
def fairgrad(
    num_tasks: int, *, alpha: float = 1.0, shared: Predicate | None = None, axis_name: str | None = None
) -> spec.Transformation:
    """Share the improvement among the tasks α-fairly.

    With G = J Jᵀ, d = Jᵀ x for the x > 0 that solves G x = x^(−1/α).
    α = 1 is the Nash solution without its clipping; a large α favors the task that improves least.

    Source: Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", section 4.
    Differences: LibMTL and TorchJD minimize the residual by least squares; here Newton's method solves it exactly
        (tested for α from 0.2 to 5, lengths up to 1e4 apart; farther apart, weights of the shortest gradients lose
        digits, d does not). LibMTL and the official code weigh task-specific parameters by x too.
    Degenerate inputs: as in `nash_mtl`, but d is not shortened. x goes with ‖g‖^(−2α/(1+α)): in float32 gradients
        shorter than 1e-25 are too short for α = 2.

    Args:
        alpha: α; 1 in LibMTL, 2 in the official Cityscapes script.
    """
    options.positive("fairgrad", alpha=alpha)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        return solvers.fair(geometry.norms, geometry.cosines, alpha), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
