"""GradVac: the gradient vaccine."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlflax.weighting import options, spec
from mtlflax.weighting.gradient_balancing import surgery
from mtlflax.weighting.solvers import dot, varying_as
from mtlflax.weighting.stacked import Geometry, Predicate, from_geometry


class GradVacState(NamedTuple):
    """State of `gradvac`."""

    step: jax.Array
    targets: jax.Array  # [K, K], ρ̂, the cosine that the corrected gradient i should have with gradient j; 0 at first


@spec.gradient_balancing()
def gradvac(
    num_tasks: int,
    *,
    beta: float = 0.5,
    only_corrected: bool = False,
    seed: int = 0,
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> spec.Transformation:
    """Turn each gradient until its cosine with every other is what it usually is, and add the results.

    For each task i, over the other tasks j in random order, with ρ the cosine of the corrected gradient i and the
    original g_j: if ρ < ρ̂_ij,

        g_i ← g_i + ‖g_i‖ (ρ̂_ij √(1−ρ²) − ρ √(1−ρ̂_ij²)) / (‖g_j‖ √(1−ρ̂_ij²)) g_j,

    then ρ̂_ij ← (1−β) ρ̂_ij + β ρ; d = Σ_i g_i. ρ̂ starts at 0: the first update is `pcgrad`'s.

    Source: Wang et al. 2021, "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
        Multilingual Models", algorithm 1.
    Differences: ρ̂ moves with every pair, as in the algorithm and TorchJD; in some versions of LibMTL, and in other
        ports, only with pairs that are corrected. LibMTL can have a ρ̂ for each layer.
    Degenerate inputs: a zero gradient counts as orthogonal to all and is not added. As ρ̂ approaches 1, corrections
        approach infinity: √(1−ρ̂²) counts as at least the root of the precision, 3.5e-4 in float32 (elsewhere 1e-8 is
        added to the denominator). Lengths as in `pcgrad`.

    Args:
        beta: β in 0..1, how fast ρ̂ follows; 0.5 in LibMTL and TorchJD, 0.01 in the paper.
        only_corrected: whether ρ̂ moves only with pairs that are corrected.
        seed: of the orders.
    """
    options.part("gradvac", beta=beta)

    def weigh(geometry: Geometry, losses: jax.Array | None, state: GradVacState) -> tuple[jax.Array, GradVacState]:
        tasks = jnp.arange(num_tasks)

        def correct(carry: tuple[jax.Array, jax.Array], others: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            coefficients, targets = carry
            along = jnp.sum(geometry.cosines[others] * coefficients, axis=1)
            mixed = dot(coefficients, geometry.cosines)
            length = jnp.sqrt(jnp.maximum(jnp.sum(mixed * coefficients, axis=1), 0))
            cosine = jnp.clip(along / jnp.where(length > 0, length, 1), -1, 1)
            target = targets[tasks, others]
            target_sine = jnp.sqrt(jnp.maximum(1 - target**2, jnp.finfo(target.dtype).eps))
            missing = length * (target * jnp.sqrt(1 - cosine**2) - cosine * target_sine) / target_sine
            corrected = (cosine < target) & (others != tasks) & (geometry.norms[others] > 0)
            coefficients = coefficients.at[tasks, others].add(jnp.where(corrected, missing, 0))
            moves = corrected if only_corrected else others != tasks
            targets = targets.at[tasks, others].set(jnp.where(moves, (1 - beta) * target + beta * cosine, target))
            return (coefficients, targets), None

        start = varying_as(jnp.eye(num_tasks, dtype=geometry.norms.dtype), geometry.cosines)
        targets = varying_as(state.targets, geometry.cosines)
        orders = surgery.orders(seed, state.step, num_tasks)
        (coefficients, targets), _ = jax.lax.scan(correct, (start, targets), orders)
        return surgery.weights(coefficients, geometry), GradVacState(state.step + 1, targets)

    def inner(dtype: jnp.dtype) -> GradVacState:
        return GradVacState(jnp.zeros((), jnp.int32), jnp.zeros((num_tasks, num_tasks), dtype))

    return from_geometry(weigh, num_tasks=num_tasks, inner=inner, shared=shared, axis_name=axis_name)
