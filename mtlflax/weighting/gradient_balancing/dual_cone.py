"""UPGrad and DualProj: projections onto the dual cone, the directions that conflict with no task."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, solvers
from mtlflax.weighting.stacked import Geometry, from_geometry


def upgrad(
    num_tasks: int,
    *,
    preference: Sequence[float] | None = None,
    regularisation: float = 1e-4,
    norm_eps: float = 0.0,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """UPGrad: each task's gradient is projected onto the dual cone, and the projections are averaged.

    The dual cone {d: J d ≥ 0} holds the directions along which no loss rises. With p = 1/K,

        d = Σ_k p_k Π(g_k),   Π(Jᵀu) = Jᵀv,   v = argmin ½ vᵀGv over v ≥ u

    (Quinton & Rey 2024, "Jacobian Descent for Multi-Objective Optimization", equation 2 and proposition 1; TorchJD). G
    is J Jᵀ/tr(J Jᵀ) + r·I, as in TorchJD, so that a conflict of up to about r is let be; TorchJD takes J Jᵀ for 0, and
    so gives the mean, where the trace is below 1e-4: `norm_eps=1e-4`. At K = 2 and r = 0 it is half of PCGrad.

    A zero gradient changes nothing for the others. Opposite gradients give nearly 0 (what r leaves), equal ones that
    gradient, all zero 0. Weights p without conflict.

    Args:
        num_tasks: K.
        preference: p, a number from 0 on for each task; None: 1/K each.
        regularisation: r; TorchJD's 1e-4.
        norm_eps: below this trace of J Jᵀ there is no projection.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: another number of preferences than of tasks, or anything negative.

    >>> t = upgrad(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.2929, 1.9004, 1.9004]
    """
    options.not_negative("upgrad", regularisation=regularisation, norm_eps=norm_eps)
    wanted = options.preference("upgrad", preference, num_tasks)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        gramian = _regularised(geometry, regularisation, norm_eps)
        bounds = jnp.diag(jnp.array(wanted, gramian.dtype))
        return jnp.sum(jax.vmap(lambda bound: solvers.bounded_qp(gramian, bound))(bounds), axis=0), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)


def dualproj(
    num_tasks: int,
    *,
    preference: Sequence[float] | None = None,
    regularisation: float = 1e-4,
    norm_eps: float = 0.0,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """DualProj: the mean gradient is projected onto the dual cone.

        d = Jᵀv,   v = argmin ½ vᵀGv over v ≥ p,   p = 1/K

    (Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning", section 3; TorchJD, whose name and
    G = J Jᵀ/tr + r·I this has). Degenerate gradients as in `upgrad`.

    Args:
        num_tasks: K.
        preference: p, a number from 0 on for each task; None: 1/K each.
        regularisation: r; TorchJD's 1e-4.
        norm_eps: below this trace of J Jᵀ there is no projection.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: as in `upgrad`.

    >>> t = dualproj(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.5563, 1.1109, 1.1109]
    """
    options.not_negative("dualproj", regularisation=regularisation, norm_eps=norm_eps)
    wanted = options.preference("dualproj", preference, num_tasks)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        gramian = _regularised(geometry, regularisation, norm_eps)
        return solvers.bounded_qp(gramian, jnp.array(wanted, gramian.dtype)), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)


def _regularised(geometry: Geometry, regularisation: float, norm_eps: float) -> jax.Array:
    """J Jᵀ over its trace, or 0 where that is below `norm_eps`, plus a multiple of the identity."""
    longest = jnp.max(geometry.norms)
    relative = Geometry(geometry.norms / jnp.where(longest > 0, longest, 1), geometry.cosines).gramian
    trace = jnp.trace(relative)
    counts = longest * jnp.sqrt(trace) >= norm_eps**0.5
    relative = jnp.where(counts, relative / jnp.where(trace > 0, trace, 1), 0)
    return relative + regularisation * jnp.eye(len(relative), dtype=relative.dtype)
