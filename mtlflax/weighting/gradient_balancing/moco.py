"""MoCo: task gradients tracked over the steps, and weights that follow their Gramian."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, stacked
from mtlflax.weighting.gradient_balancing import simplex
from mtlflax.weighting.solvers import dot
from mtlflax.weighting.stacked import Geometry, from_gradients

_ONTO = ("softmax", "projection")


class MoCoState(NamedTuple):
    """State of `moco`.

    Attributes:
        step: int32 [], updates so far.
        tracked: y, for every shared parameter [K, ...]; zeros at the start.
        point: [K], λ; 1/K at the start.
    """

    step: jax.Array
    tracked: tuple[jax.Array, ...]
    point: jax.Array


def moco(
    num_tasks: int,
    *,
    beta: float = 0.5,
    gamma: float = 0.1,
    rho: float = 0.0,
    beta_sigma: float = 0.5,
    gamma_sigma: float = 0.5,
    normalise: bool = True,
    onto: str = "softmax",
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multi-objective gradient correction: weights from gradients that are tracked over many batches.

    In update t = 1, 2, … with ĝ_k = L_k g_k/‖g_k‖,

        y_k ← y_k − β/√t (y_k − ĝ_k),    λ ← softmax(λ − γ/√t (y yᵀ + ρ I) λ),    d = yᵀ λ,

    from y = 0 and λ = 1/K. This is LibMTL, after code of the authors. The paper (Fernando et al. 2023, "Mitigating
    Gradient Bias in Multi-objective Learning: A Provably Convergent Approach", algorithm 1), and its official
    repository, track g itself, project λ onto the simplex and have rates that do not fall with √t:
    `normalise=False, onto="projection", beta_sigma=0, gamma_sigma=0`; the repository's β, γ and ρ are 0.1.

    The state has K gradients of the shared parameters, in float32 or better. The weights in it are λ: of y, not of the
    gradients of this step. `update` needs `losses` where gradients are normalised.

    A zero gradient, or loss, is tracked as 0. A negative loss turns its gradient around. Losses and gradients up to
    1e15 are safe in float32: beyond, y yᵀ overflows.

    Args:
        num_tasks: K.
        beta: β in 0..1, the rate of y.
        gamma: γ, the rate of λ.
        rho: ρ, pulls λ to 1/K.
        beta_sigma: β is divided by t to this power.
        gamma_sigma: γ is divided by t to this power.
        normalise: whether gradients are made as long as their losses are large.
        onto: how λ comes onto the simplex, 'softmax' or 'projection'.
        shared: as in `weighting.get`.
        axis_name: None; see `Raises`.

    Raises:
        ValueError: an option out of range; an `axis_name`, since gradients of features belong to their batch and cannot
            be tracked over the steps; from `update`, no `losses`.

    >>> t = moco(2)
    >>> g = jnp.array([[-4.0, 1, 1], [6, 1, 1]])
    >>> d, state = t.update(g, t.init(jnp.zeros(3)), losses=jnp.array([1.0, 2.0]))
    >>> [round(float(x), 4) for x in state.weights], [round(float(x), 4) for x in d]
    ([0.5094, 0.4906], [0.2374, 0.1396, 0.1396])
    """
    options.part("moco", beta=beta)
    options.not_negative("moco", gamma=gamma, rho=rho, beta_sigma=beta_sigma, gamma_sigma=gamma_sigma)
    options.choice("moco", _ONTO, onto=onto)
    if axis_name is not None:
        raise ValueError(
            f"moco: axis_name is {axis_name!r}, but its state is of gradients, and those of one batch's features, "
            "each device with its own, are not those of the next's"
        )

    def direct(
        leaves: list[jax.Array], geometry: Geometry, losses: jax.Array | None, state: MoCoState
    ) -> tuple[list[jax.Array], jax.Array, MoCoState]:
        stacked.check_kept("moco", state.tracked, leaves)
        step = state.step + 1
        time = step.astype(geometry.norms.dtype)
        if normalise:
            if losses is None:
                raise ValueError("moco: update needs losses=...")
            lengths = jnp.where(geometry.norms > 0, geometry.norms, 1)
            sizes = losses.astype(lengths.dtype)
            leaves = [leaf / _over(lengths, leaf) * _over(sizes, leaf) for leaf in leaves]
        rate = beta / time**beta_sigma
        tracked = tuple(y - rate * (y - leaf) for y, leaf in zip(state.tracked, leaves, strict=True))

        measured = stacked.geometry(tracked)
        slope = dot(measured.cosines, measured.norms * state.point)
        slope = measured.norms * slope + rho * state.point
        moved = state.point - gamma / time**gamma_sigma * slope
        point = jax.nn.softmax(moved) if onto == "softmax" else simplex.project(moved)
        return stacked.combine(point, list(tracked)), point, MoCoState(step, tracked, point)

    def inner(leaves: list[jax.Array], dtype: jnp.dtype) -> MoCoState:
        tracked = tuple(jnp.zeros((num_tasks, *leaf.shape), dtype) for leaf in leaves)
        return MoCoState(jnp.zeros((), jnp.int32), tracked, jnp.full(num_tasks, 1 / num_tasks, dtype))

    return from_gradients(direct, num_tasks=num_tasks, inner=inner, shared=shared)


def _over(vector: jax.Array, leaf: jax.Array) -> jax.Array:
    """[K] as [K, 1, …], to go with a leaf [K, …]."""
    return vector.reshape(-1, *[1] * (leaf.ndim - 1))
