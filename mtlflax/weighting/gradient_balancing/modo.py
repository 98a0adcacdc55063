"""MoDo: multi-objective gradient with double sampling."""

import jax
import jax.numpy as jnp

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.gradient_balancing.double_sampling import stepping
from mtlflax.weighting.stacked import Predicate


@spec.gradient_balancing(samples=2)
def modo(
    num_tasks: int,
    *,
    gamma: float = 0.1,
    rho: float = 0.1,
    independent: bool = True,
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> spec.Transformation:
    """Take one projected step of the weights per update, along a product of two independent samples of the gradients.

    λ ← Π(λ − γ (J J'ᵀ λ + ρ λ)),   d = Σ_k λ_k g_k, from λ = 1/K, Π being the projection onto the simplex. J J'ᵀ is
    not normalized, so γ has to suit the size of the gradients. J, J' and `independent`: see `double_sampling`.

    Source: Chen et al. 2023, "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
        Conflict-Avoidance", equation 2.9 of the JMLR version; official code, LibMTL, TorchJD.
    Differences: in the paper g is the mean of the two batches' gradients, in the official code their sum, in LibMTL
        a third batch's.
    Degenerate inputs: with zero gradients only ρ acts, which moves λ to 1/K.

    Args:
        gamma: γ; 0.1 in the official code and TorchJD, 1e-3 in LibMTL.
        rho: ρ, pulls λ to 1/K.
    """
    options.positive("modo", gamma=gamma)
    options.not_negative("modo", rho=rho)

    def move(matrix: jax.Array, scale: jax.Array, point: jax.Array) -> tuple[jax.Array, jax.Array]:
        slope = gamma * (solvers.dot(matrix, point) * scale + rho * point)
        # Steps beyond the other side of the simplex change nothing, but infinity would.
        point = solvers.project(point - jnp.clip(slope, -1e30, 1e30))
        return point, point

    return stepping(move, num_tasks=num_tasks, independent=independent, shared=shared, axis_name=axis_name)
