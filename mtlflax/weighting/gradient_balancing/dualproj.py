"""DualProj: the projection of the mean gradient onto the dual cone."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.gradient_balancing.dual_cone import regularized
from mtlflax.weighting.stacked import Geometry, from_geometry


@spec.gradient_balancing()
def dualproj(
    num_tasks: int,
    *,
    preference: Sequence[float] | None = None,
    regularization: float = 1e-4,
    norm_eps: float = 0.0,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Project the mean gradient onto the dual cone.

    Formula:
        d = Jᵀv,   v = argmin ½ vᵀGv over v ≥ p,   p = 1/K,   G = J Jᵀ/tr(J Jᵀ) + r·I

    References:
        Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning", section 3; TorchJD, whose name and
        G this has.

    Degenerate inputs:
        As in `upgrad`.

    Args:
        preference: p, a number of at least 0 for each task; None: 1/K each.
        regularization: r; 1e-4 as in TorchJD.
        norm_eps: the trace of J Jᵀ below which there is no projection.

    Raises:
        ValueError: another number of preferences than of tasks, or anything negative.

    >>> t = dualproj(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.5563, 1.1109, 1.1109]
    """
    options.not_negative("dualproj", regularization=regularization, norm_eps=norm_eps)
    wanted = options.preference("dualproj", preference, num_tasks)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        gramian = regularized(geometry, regularization, norm_eps)
        return solvers.bounded_qp(gramian, jnp.array(wanted, gramian.dtype)), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
