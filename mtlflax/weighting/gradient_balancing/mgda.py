"""MGDA: the shortest convex combination of the task gradients."""

import jax
import jax.numpy as jnp

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.stacked import Geometry, Predicate, from_geometry


@spec.gradient_balancing()
def mgda(
    num_tasks: int,
    *,
    normalize: str = "none",
    combine: str = "raw",
    times_tasks: bool = False,
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> spec.Transformation:
    """Take the shortest convex combination of the gradients, which lowers all losses at once as long as it is not 0.

    a = argmin ‖Σ_k a_k g_k‖ over a ≥ 0, Σ_k a_k = 1;   d = Σ_k a_k g_k. With a normalization, a is that of the
    normalized gradients, and d combines the gradients as they are.

    Source: Désidéri 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization"; Sener & Koltun
        2018, "Multi-Task Learning as Multi-Objective Optimization", equation 3.
    Differences: solved exactly; LibMTL, TorchJD and the official code approach it, for K > 2, by Frank-Wolfe steps.
        LibMTL combines the normalized gradients (`combine="normalized"`); the nash-mtl repository takes K d
        (`times_tasks=True`).
    Degenerate inputs: d is 0 if a convex combination of the gradients is: opposite gradients, or a zero gradient, which
        takes all the weight, normalized or not (several share it). Equal gradients give that gradient. There is no
        division by a loss that is not positive.

    Args:
        normalize: what each gradient is divided by before a is sought: 'none', 'l2' (its length), 'loss', or 'loss+'
            (both); the last two need `losses` in `update`.
        combine: which gradients a combines, the 'raw' or the 'normalized' ones.
        times_tasks: whether d is K times as long.
    """
    options.choice("mgda", ("none", "l2", "loss", "loss+"), normalize=normalize)
    options.choice("mgda", ("raw", "normalized"), combine=combine)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        divisors = jnp.ones_like(geometry.norms)
        if normalize in ("l2", "loss+"):
            divisors = jnp.where(geometry.norms > 0, geometry.norms, 1)
        if normalize in ("loss", "loss+"):
            if losses is None:
                raise ValueError(f"mgda: normalize={normalize!r} needs losses=... in update")
            sizes = losses.astype(divisors.dtype)
            divisors *= jnp.where(sizes > 0, sizes, 1)
        weights = solvers.min_norm(geometry.norms / divisors, geometry.cosines)
        if combine == "normalized":
            weights /= divisors
        return (num_tasks if times_tasks else 1) * weights, inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
