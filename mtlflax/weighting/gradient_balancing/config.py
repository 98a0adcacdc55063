"""ConFIG: the conflict-free direction."""

import jax
import jax.numpy as jnp

from mtlflax.weighting import solvers, spec
from mtlflax.weighting.stacked import Geometry, Predicate, from_geometry


@spec.gradient_balancing()
def config(num_tasks: int, *, shared: Predicate | None = None, axis_name: str | None = None) -> spec.Transformation:
    """Find the direction at the same angle to all gradients, as long as the sum of their projections on it.

    With U the unit gradients as rows, C = U Uᵀ and b = U⁺ 1 = Uᵀ C⁺ 1, it is d = (Σ_k g_k·b̂) b̂,    b̂ = b/‖b‖. It
    conflicts with no task.

    Source: Liu et al. 2025, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", equation 2.
    Differences: TorchJD and the official code take the singular values of U itself, and so count fewer of them as 0;
        they can also weigh the ones.
    Degenerate inputs: a zero gradient has no effect; two opposite gradients give 0, with a third one d is orthogonal to
        the two; equal gradients give their sum. Lengths as in `pcgrad`.
    """

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        solution, angles = solvers.solve_ones(geometry.cosines)  # b's coefficients in unit gradients, and b·g_k/‖g_k‖
        square = jnp.sum(solution * angles)  # ‖b‖²
        projections = solvers.dot(geometry.ratios.T, angles)  # Σ_j g_j·b, over ‖g_k‖
        return jnp.where(square > 0, projections * solution / jnp.where(square > 0, square, 1), 0), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
