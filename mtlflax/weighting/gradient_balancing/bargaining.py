"""Nash-MTL and FairGrad: the direction on which the tasks would agree in a bargain."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, solvers
from mtlflax.weighting.stacked import Geometry, from_geometry


class NashState(NamedTuple):
    """State of `nash_mtl`.

    Attributes:
        step: int32 [], updates so far.
        kept: [K], the solution of the last update that solved, before the length is clipped.
    """

    step: jax.Array
    kept: jax.Array


def nash_mtl(
    num_tasks: int,
    *,
    max_norm: float | None = 1.0,
    update_every: int = 1,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Nash-MTL: the Nash bargaining solution between the tasks.

    With G = J Jᵀ, the a > 0 that solves

        G a = 1/a,   d = Jᵀ a

    (Navon et al. 2022, "Multi-Task Learning as a Bargaining Game", claim 3.1), d shortened to `max_norm` where it is
    longer. Newton's method solves it to the last digits; the official code, LibMTL and TorchJD come near it by up to 20
    convex programs, each from the weights of the last step. At K = 2, a_k = 1/(‖g_k‖ √(1 + cos θ)). ‖d‖² = aᵀGa = K
    whatever the gradients, so that `max_norm=1` always shortens d.

    LibMTL and the official code weigh the losses by a: task-specific parameters too. Here, and in TorchJD, these get
    their own task's gradient. Between solves the two weigh the losses, and save K − 1 backward passes; here the
    gradients are taken in every step.

    A zero gradient has weight 0 and the others bargain. Where a positive combination of the gradients is 0 (opposite
    ones) there is no solution: a is large along that combination, and what d is left with is rounding, at most
    `max_norm` long.

    Args:
        num_tasks: K.
        max_norm: the largest length of d; None or inf: any (0 in LibMTL and TorchJD).
        update_every: a is solved for in the first of so many updates, and kept for the others; d is shortened in each.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: a max_norm or update_every that is not positive.

    >>> t = nash_mtl(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.0542, 0.7061, 0.7061]
    """
    longest = math.inf if max_norm is None else max_norm
    if longest != math.inf:
        options.positive("nash_mtl", max_norm=longest)
    options.count("nash_mtl", update_every=update_every)

    def weigh(geometry: Geometry, losses: jax.Array | None, state: NashState) -> tuple[jax.Array, NashState]:
        del losses
        solution = solvers.fair(geometry.norms, geometry.cosines, 1.0)
        kept = jnp.where(state.step % update_every == 0, solution, state.kept)
        weights = kept
        if longest != math.inf:
            parts = kept * geometry.norms
            inner = solvers.dot(geometry.cosines, parts)
            length = jnp.sqrt(jnp.maximum(jnp.sum(parts * inner), 0))
            weights = kept * jnp.minimum(1, longest / jnp.where(length > 0, length, longest))
        return weights, NashState(state.step + 1, kept)

    return from_geometry(
        weigh,
        num_tasks=num_tasks,
        inner=lambda dtype: NashState(jnp.zeros((), jnp.int32), jnp.ones(num_tasks, dtype)),
        shared=shared,
        axis_name=axis_name,
    )


def fairgrad(
    num_tasks: int,
    *,
    alpha: float = 1.0,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """FairGrad: α-fair shares of the improvement.

    With G = J Jᵀ, the x > 0 that solves

        G x = x^(−1/α),   d = Jᵀ x

    (Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", section 4): α = 1 is proportional fairness, the
    Nash solution without its clipping; a large α favours the task that improves least. LibMTL and TorchJD minimise the
    residual by least squares; here Newton's method solves it to the last digits (tested for α from 0.2 to 5, lengths
    up to 1e4 apart; farther apart, weights of the shortest gradients lose digits, d does not). LibMTL and the official
    code weigh task-specific parameters by x too.

    Zero gradients, and such as have a positive combination that is 0: as in `nash_mtl`, only that d is not shortened.
    x goes with ‖g‖^(−2α/(1+α)): in float32 gradients shorter than 1e-25 are too short for α = 2.

    Args:
        num_tasks: K.
        alpha: α; 1 in LibMTL, 2 in the official Cityscapes script.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: an α that is not positive.

    >>> t = fairgrad(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.0766, 0.9985, 0.9985]
    """
    options.positive("fairgrad", alpha=alpha)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        return solvers.fair(geometry.norms, geometry.cosines, alpha), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
