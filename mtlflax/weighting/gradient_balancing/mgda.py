"""MGDA: the shortest convex combination of the task gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, solvers
from mtlflax.weighting.stacked import Geometry, from_geometry

_NORMALISATIONS = ("none", "l2", "loss", "loss+")
_COMBINES = ("raw", "normalised")


def mgda(
    num_tasks: int,
    *,
    normalise: str = "none",
    combine: str = "raw",
    times_tasks: bool = False,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiple-gradient descent: the direction that lowers all losses at once, as long as there is one.

        a = argmin ‖Σ_k a_k g_k‖ over a ≥ 0, Σ_k a_k = 1;   d = Σ_k a_k g_k

    (Désidéri 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization"; Sener & Koltun 2018,
    "Multi-Task Learning as Multi-Objective Optimization", equation 3). Solved exactly; LibMTL, TorchJD and the official
    code approach it, for K > 2, by steps of Frank-Wolfe's kind. Where a normalisation is asked for, a is that of the
    normalised gradients, and d combines the gradients as they are (official code; LibMTL combines the normalised ones:
    `combine="normalised"`). The nash-mtl repository takes K d: `times_tasks=True`.

    d is 0 where a convex combination of the gradients is: opposite gradients, or a zero gradient, which takes all the
    weight, normalised or not (several share it). Equal gradients give that gradient. A loss that is not positive is not
    divided by.

    Args:
        num_tasks: K.
        normalise: by what each gradient is divided before a is sought: 'none', 'l2' (its length), 'loss', or 'loss+'
            (both); the last two need `losses` in `update`.
        combine: which gradients a combines, the 'raw' or the 'normalised' ones.
        times_tasks: whether d is K times as long.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: an unknown normalisation or `combine`; from `update`, no `losses` where they are needed.

    >>> t = mgda(2)
    >>> d, state = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(abs(float(x)), 4) for x in d], [round(float(x), 4) for x in state.weights]
    ([0.0, 1.0, 1.0], [0.6, 0.4])
    """
    options.choice("mgda", _NORMALISATIONS, normalise=normalise)
    options.choice("mgda", _COMBINES, combine=combine)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        divisors = jnp.ones_like(geometry.norms)
        if normalise in ("l2", "loss+"):
            divisors = jnp.where(geometry.norms > 0, geometry.norms, 1)
        if normalise in ("loss", "loss+"):
            if losses is None:
                raise ValueError(f"mgda: normalise={normalise!r} needs losses=... in update")
            sizes = losses.astype(divisors.dtype)
            divisors *= jnp.where(sizes > 0, sizes, 1)
        weights = solvers.min_norm(geometry.norms / divisors, geometry.cosines)
        if combine == "normalised":
            weights /= divisors
        return (num_tasks if times_tasks else 1) * weights, inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
