"""UPGrad: the mean of the gradients' projections onto the dual cone."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.stacked import Geometry, Predicate, from_geometry


@spec.gradient_balancing()
def upgrad(
    num_tasks: int,
    *,
    preference: Sequence[float] | None = None,
    regularization: float = 1e-4,
    norm_eps: float = 0.0,
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> spec.Transformation:
    """Project each task's gradient onto the dual cone, and average the projections.

    The dual cone {d: J d ≥ 0} holds the directions along which no loss rises. With p = 1/K,

        d = Σ_k p_k Π(g_k),   Π(Jᵀu) = Jᵀv,   v = argmin ½ vᵀGv over v ≥ u,

    G being J Jᵀ/tr(J Jᵀ) + r·I, so that a conflict of about r is tolerated. At K = 2 and r = 0 it is half of PCGrad.

    Source: Quinton & Rey 2024, "Jacobian Descent for Multi-Objective Optimization", equation 2, proposition 1; TorchJD.
    Differences: TorchJD takes J Jᵀ for 0, and so gives the mean, if the trace is below 1e-4: `norm_eps=1e-4`.
    Degenerate inputs: a zero gradient changes nothing for the others. Opposite gradients give nearly 0 (what r leaves),
        equal ones that gradient, all zero 0. Without conflict the weights are p.

    Args:
        preference: p, a number of at least 0 for each task; None: 1/K each.
        regularization: r; 1e-4 as in TorchJD.
        norm_eps: the trace of J Jᵀ below which there is no projection.
    """
    options.not_negative("upgrad", regularization=regularization, norm_eps=norm_eps)
    wanted = options.preference("upgrad", preference, num_tasks)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        gramian = regularized(geometry, regularization, norm_eps)
        bounds = jnp.diag(jnp.array(wanted, gramian.dtype))
        return jnp.sum(jax.vmap(lambda bound: solvers.bounded_qp(gramian, bound))(bounds), axis=0), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)


def regularized(geometry: Geometry, regularization: float, norm_eps: float) -> jax.Array:
    """Return J Jᵀ over its trace, or 0 if that is below `norm_eps`, plus a multiple of the identity."""
    relative = geometry.relative.gramian
    trace = jnp.trace(relative)
    matters = jnp.max(geometry.norms) * jnp.sqrt(trace) >= norm_eps**0.5
    relative = jnp.where(matters, relative / jnp.where(trace > 0, trace, 1), 0)
    return relative + regularization * jnp.eye(len(relative), dtype=relative.dtype)
