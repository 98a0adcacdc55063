"""PCGrad: projecting conflicting gradients."""

import jax
import jax.numpy as jnp

from mtlflax.weighting import spec
from mtlflax.weighting.gradient_balancing import surgery
from mtlflax.weighting.solvers import varying_as
from mtlflax.weighting.stacked import CountState, Geometry, Predicate, counting, from_geometry


@spec.gradient_balancing()
def pcgrad(
    num_tasks: int, *, seed: int = 0, shared: Predicate | None = None, axis_name: str | None = None
) -> spec.Transformation:
    """Remove from each gradient what points against another task's gradient, and add the results.

    For each task i, over the other tasks j in random order: if the corrected gradient has g_i·g_j < 0,

        g_i ← g_i − (g_i·g_j)/‖g_j‖² g_j,

    g_j being the original one; d = Σ_i g_i. Without conflict d is the sum. At K = 2 nothing is random; for K > 2 every
    task draws its own order in every update.

    Source: Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1; LibMTL, TorchJD.
    Differences: the PyTorch port has the mean as an option.
    Degenerate inputs: a zero gradient changes nothing; opposite ones give 0 at K = 2, equal ones their sum. Lengths
        more than 1e19 times apart (in float32) count as 1e19 times apart.

    Args:
        seed: of the orders.
    """

    def weigh(geometry: Geometry, losses: jax.Array | None, state: CountState) -> tuple[jax.Array, CountState]:
        tasks = jnp.arange(num_tasks)

        def correct(coefficients: jax.Array, others: jax.Array) -> tuple[jax.Array, None]:
            along = jnp.sum(geometry.cosines[others] * coefficients, axis=1)
            conflict = jnp.where(others == tasks, 0, jnp.minimum(along, 0))
            return coefficients.at[tasks, others].add(-conflict), None

        start = varying_as(jnp.eye(num_tasks, dtype=geometry.norms.dtype), geometry.cosines)
        coefficients, _ = jax.lax.scan(correct, start, surgery.orders(seed, state.step, num_tasks))
        return surgery.weights(coefficients, geometry), CountState(state.step + 1)

    return from_geometry(weigh, num_tasks=num_tasks, inner=counting, shared=shared, axis_name=axis_name)
