"""Nash-MTL: the Nash bargaining solution."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.stacked import Geometry, Predicate, from_geometry


class NashState(NamedTuple):
    """State of `nash_mtl`."""

    step: jax.Array
    kept: jax.Array  # [K], the solution of the last update that solved, before the length is clipped


@spec.gradient_balancing()
def nash_mtl(
    num_tasks: int,
    *,
    max_norm: float | None = 1.0,
    update_every: int = 1,
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> spec.Transformation:
    """Combine the gradients by the Nash bargaining solution between the tasks.

    With G = J Jᵀ, d = Jᵀ a for the a > 0 that solves G a = 1/a, shortened to `max_norm` if it is longer. At K = 2,
    a_k = 1/(‖g_k‖ √(1 + cos θ)). ‖d‖² = aᵀGa = K for any gradients, so that `max_norm=1` always shortens d.

    Source: Navon et al. 2022, "Multi-Task Learning as a Bargaining Game", claim 3.1.
    Differences: Newton's method solves for a exactly; the official code, LibMTL and TorchJD approach it by up to 20
        convex programs, each from the weights of the last step. LibMTL and the official code weigh the losses by a, and
        so task-specific parameters too; here, and in TorchJD, these get their own task's gradient. Between solves the
        two weigh the losses, and save K − 1 backward passes; here the gradients are taken in every step.
    Degenerate inputs: a zero gradient has weight 0 and the others bargain. If a positive combination of the gradients
        is 0 (opposite ones) there is no solution: a is large along that combination, and d is rounding.

    Args:
        max_norm: the largest length of d; None or inf: any (0 in LibMTL and TorchJD).
        update_every: a is solved for in every n-th update and kept in between; d is shortened in each.
    """
    longest = math.inf if max_norm is None else max_norm
    if longest != math.inf:
        options.positive("nash_mtl", max_norm=longest)
    options.count("nash_mtl", update_every=update_every)

    def weigh(geometry: Geometry, losses: jax.Array | None, state: NashState) -> tuple[jax.Array, NashState]:
        solution = solvers.fair(geometry.norms, geometry.cosines, 1.0)
        kept = jnp.where(state.step % update_every == 0, solution, state.kept)
        weights = kept
        if longest != math.inf:
            parts = kept * geometry.norms
            inner = solvers.dot(geometry.cosines, parts)
            length = jnp.sqrt(jnp.maximum(jnp.sum(parts * inner), 0))
            weights = kept * jnp.minimum(1, longest / jnp.where(length > 0, length, longest))
        return weights, NashState(state.step + 1, kept)

    def inner(dtype: jnp.dtype) -> NashState:
        return NashState(jnp.zeros((), jnp.int32), jnp.ones(num_tasks, dtype))

    return from_geometry(weigh, num_tasks=num_tasks, inner=inner, shared=shared, axis_name=axis_name)
