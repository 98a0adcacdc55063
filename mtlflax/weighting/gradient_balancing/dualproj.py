"""DualProj: the projection of the mean gradient onto the dual cone."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.gradient_balancing.upgrad import regularized
from mtlflax.weighting.stacked import Geometry, Predicate, from_geometry


@spec.gradient_balancing()
def dualproj(
    num_tasks: int,
    *,
    preference: Sequence[float] | None = None,
    regularization: float = 1e-4,
    norm_eps: float = 0.0,
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> spec.Transformation:
    """Project the mean gradient onto the dual cone.

    d = Jᵀv,   v = argmin ½ vᵀGv over v ≥ p,   p = 1/K,   G = J Jᵀ/tr(J Jᵀ) + r·I.

    Source: Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning", section 3; name and G: TorchJD.
    Degenerate inputs and options: as in `upgrad`.
    """
    options.not_negative("dualproj", regularization=regularization, norm_eps=norm_eps)
    wanted = options.preference("dualproj", preference, num_tasks)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        gramian = regularized(geometry, regularization, norm_eps)
        return solvers.bounded_qp(gramian, jnp.array(wanted, gramian.dtype)), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
