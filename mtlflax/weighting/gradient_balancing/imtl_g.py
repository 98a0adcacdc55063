"""The gradient balance of impartial multi-task learning."""

import jax
import jax.numpy as jnp

from mtlflax.weighting import solvers, spec
from mtlflax.weighting.stacked import Geometry, Predicate, from_geometry


@spec.gradient_balancing()
def imtl_g(num_tasks: int, *, shared: Predicate | None = None, axis_name: str | None = None) -> spec.Transformation:
    """Find the direction that has the same projection on the gradient of every task (IMTL-G).

    d = Σ_k α_k g_k with Σ_k α_k = 1 and d·g_1/‖g_1‖ = … = d·g_K/‖g_K‖; with C the cosines of the gradients,
    α ∝ (C⁻¹ 1)_k / ‖g_k‖.

    Source: Liu et al. 2021, "Towards Impartial Multi-task Learning"; LibMTL and TorchJD, which agree.
    Degenerate inputs: for K > 2 the sum of C⁻¹ 1 over the lengths can be negative; then the common projection is
        negative too, and d ascends, by definition of the method. Near 0, d grows without bound and digits are lost. For
        dependent gradients C⁻¹ is the pseudo-inverse (in TorchJD that of the Gramian), and projections are as equal as
        possible: two opposite gradients give 0, with a third one d is orthogonal to the two. A zero gradient has weight
        0 and the others are balanced; equal gradients give that gradient.
    """

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        solution, _ = solvers.solve_ones(geometry.cosines)
        known = geometry.norms > 0
        shortest = jnp.min(jnp.where(known, geometry.norms, jnp.inf))
        shares = solution * jnp.where(known, shortest / jnp.where(known, geometry.norms, 1), 0)
        total = jnp.sum(shares)
        vanishes = jnp.abs(total) <= solvers.cutoff(shares) * jnp.sum(jnp.abs(shares))
        return jnp.where(vanishes, 0, shares / jnp.where(vanishes, 1, total)), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
