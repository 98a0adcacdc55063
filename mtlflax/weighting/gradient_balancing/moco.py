"""MoCo: multi-objective gradient correction."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlflax.weighting import measures, options, solvers, spec, stacked
from mtlflax.weighting.stacked import Geometry, Predicate, from_gradients


class MoCoState(NamedTuple):
    """State of `moco`."""

    step: jax.Array
    tracked: tuple[jax.Array, ...]  # y, for every shared parameter [K, ...]; zeros at the start
    point: jax.Array  # [K], λ; 1/K at the start


@spec.gradient_balancing(keeps_gradients=True)
def moco(
    num_tasks: int,
    *,
    beta: float = 0.5,
    gamma: float = 0.1,
    rho: float = 0.0,
    beta_sigma: float = 0.5,
    gamma_sigma: float = 0.5,
    normalize: bool = True,
    onto: str = "softmax",
    shared: Predicate | None = None,
) -> spec.Transformation:
    """Track the gradients over many batches, and let weights follow the products of what is tracked.

    In update t = 1, 2, … with ĝ_k = L_k g_k/‖g_k‖,

        y_k ← y_k − β/√t (y_k − ĝ_k),    λ ← softmax(λ − γ/√t (y yᵀ + ρ I) λ),    d = yᵀ λ,

    from y = 0 and λ = 1/K.

    The weights in the state multiply gradients of the losses: λ_k L_k/‖g_k‖, or λ_k without normalization. The state
    also has K gradients of the shared parameters, in float32 or better.

    Source: Fernando et al. 2023, "Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent
        Approach", algorithm 1; LibMTL, after code of the authors, whose form this is.
    Differences: the paper and its official repository track g itself, project λ onto the simplex, and have rates that
        do not fall with √t: `normalize=False, onto="projection", beta_sigma=0, gamma_sigma=0`; its β, γ, ρ
        are 0.1.
    Degenerate inputs: a zero gradient, or loss, is tracked as 0. A negative loss turns its gradient around. Losses and
        gradients up to 1e15 are safe in float32: beyond, y yᵀ overflows.

    Args:
        beta: β in 0..1, the rate of y.
        gamma: γ, the rate of λ.
        rho: ρ, pulls λ to 1/K.
        beta_sigma: β is divided by t to this power.
        gamma_sigma: γ is divided by t to this power.
        normalize: whether each gradient is scaled to the length of its loss; needs `losses` in `update`.
        onto: how λ comes onto the simplex, 'softmax' or 'projection'.
    """
    options.part("moco", beta=beta)
    options.not_negative("moco", gamma=gamma, rho=rho, beta_sigma=beta_sigma, gamma_sigma=gamma_sigma)
    options.choice("moco", ("softmax", "projection"), onto=onto)

    def direct(
        leaves: list[jax.Array], geometry: Geometry, losses: jax.Array | None, state: MoCoState
    ) -> tuple[list[jax.Array], jax.Array, MoCoState]:
        stacked.check_kept("moco", state.tracked, leaves)
        step = state.step + 1
        time = step.astype(geometry.norms.dtype)
        gains = jnp.ones_like(geometry.norms)
        if normalize:
            if losses is None:
                raise ValueError("moco: update needs losses=...")
            lengths = jnp.where(geometry.norms > 0, geometry.norms, 1)
            sizes = losses.astype(lengths.dtype)
            gains = sizes / lengths
            leaves = [leaf / stacked.per_task(lengths, leaf) * stacked.per_task(sizes, leaf) for leaf in leaves]
        rate = beta / time**beta_sigma
        tracked = tuple(y - rate * (y - leaf) for y, leaf in zip(state.tracked, leaves, strict=True))

        measured = measures.geometry(tracked)
        slope = solvers.dot(measured.cosines, measured.norms * state.point)
        slope = measured.norms * slope + rho * state.point
        moved = state.point - gamma / time**gamma_sigma * slope
        point = jax.nn.softmax(moved) if onto == "softmax" else solvers.project(moved)
        largest = jnp.finfo(gains.dtype).max
        weights = jnp.clip(point * gains, -largest, largest)
        return measures.combine(point, list(tracked)), weights, MoCoState(step, tracked, point)

    def inner(leaves: list[jax.Array], dtype: jnp.dtype) -> MoCoState:
        tracked = tuple(jnp.zeros((num_tasks, *leaf.shape), dtype) for leaf in leaves)
        return MoCoState(jnp.zeros((), jnp.int32), tracked, jnp.full(num_tasks, 1 / num_tasks, dtype))

    return from_gradients(direct, num_tasks=num_tasks, inner=inner, shared=shared)
