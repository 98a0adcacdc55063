"""UPGrad: the mean of the gradients' projections onto the dual cone."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.gradient_balancing.dual_cone import regularized
from mtlflax.weighting.stacked import Geometry, from_geometry


@spec.gradient_balancing()
def upgrad(
    num_tasks: int,
    *,
    preference: Sequence[float] | None = None,
    regularization: float = 1e-4,
    norm_eps: float = 0.0,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Project each task's gradient onto the dual cone, and average the projections.

    Formula:
        The dual cone {d: J d ≥ 0} holds the directions along which no loss rises. With p = 1/K,

            d = Σ_k p_k Π(g_k),   Π(Jᵀu) = Jᵀv,   v = argmin ½ vᵀGv over v ≥ u,

        G being J Jᵀ/tr(J Jᵀ) + r·I, so that a conflict of up to about r is tolerated. At K = 2 and r = 0 it is half of
        PCGrad.

    References:
        Quinton & Rey 2024, "Jacobian Descent for Multi-Objective Optimization", equation 2 and proposition 1; TorchJD.

    Differences from other implementations:
        TorchJD takes J Jᵀ for 0, and so gives the mean, if the trace is below 1e-4: `norm_eps=1e-4`.

    Degenerate inputs:
        A zero gradient changes nothing for the others. Opposite gradients give nearly 0 (what r leaves), equal ones
        that gradient, all zero 0. Without conflict the weights are p.

    Args:
        preference: p, a number of at least 0 for each task; None: 1/K each.
        regularization: r; 1e-4 as in TorchJD.
        norm_eps: the trace of J Jᵀ below which there is no projection.

    Raises:
        ValueError: another number of preferences than of tasks, or anything negative.

    >>> t = upgrad(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.2929, 1.9004, 1.9004]
    """
    options.not_negative("upgrad", regularization=regularization, norm_eps=norm_eps)
    wanted = options.preference("upgrad", preference, num_tasks)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        gramian = regularized(geometry, regularization, norm_eps)
        bounds = jnp.diag(jnp.array(wanted, gramian.dtype))
        return jnp.sum(jax.vmap(lambda bound: solvers.bounded_qp(gramian, bound))(bounds), axis=0), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
