"""DB-MTL: dual balancing, of losses by their logarithm and of gradients by their length."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlflax.weighting import measures, options, spec, stacked
from mtlflax.weighting.stacked import Geometry, Predicate, from_gradients

_EPSILON = 1e-8


class DbMtlState(NamedTuple):
    """State of `db_mtl`."""

    step: jax.Array
    averages: tuple[jax.Array, ...]  # for every shared parameter [K, ...], of the log-loss gradients; zeros at first


@spec.gradient_balancing(keeps_gradients=True)
def db_mtl(
    num_tasks: int, *, beta: float = 0.9, beta_sigma: float = 0.0, shared: Predicate | None = None
) -> spec.Transformation:
    """Average the gradients of the losses' logarithms over the steps, and scale them to one length.

    With g_k the gradient of log(L_k + 1e-8), which is that of the loss over L_k + 1e-8,

        ĝ_k ← β ĝ_k + (1 − β) g_k,    d = max_k ‖ĝ_k‖ Σ_k ĝ_k/‖ĝ_k‖.

    ĝ starts at 0 without bias correction, so the first direction is 1 − β times as long as the later ones. Parameters
    that are not shared get log-loss gradients too: their own task's over L_k + 1e-8.

    The weights in the state multiply gradients of the losses: max_k ‖ĝ_k‖ / ‖ĝ_k‖ / (L_k + 1e-8), with β = 0 exactly
    those of d. The state also has K gradients of the shared parameters, in float32 or better.

    Source: Lin et al. 2023, "Dual-Balancing for Multi-Task Learning", algorithm 1; LibMTL, for the decay of β.
    Degenerate inputs: an average of 0 has weight 0 and adds nothing. A loss of 0 multiplies its gradients by 1e8; a
        negative one, which has no logarithm, counts as 0. Lengths as in `pcgrad`.

    Args:
        beta: β in 0..1; 0 looks at this step alone.
        beta_sigma: β is divided by the number of the update to this power.
    """
    options.part("db_mtl", beta=beta)
    options.not_negative("db_mtl", beta_sigma=beta_sigma)

    def of_logarithm(losses: jax.Array | None) -> jax.Array:
        """The factor that makes a loss's gradient that of its logarithm, [K]."""
        if losses is None:
            raise ValueError("db_mtl: update needs losses=...")
        return 1 / (jnp.maximum(losses.astype(jnp.result_type(jnp.float32, losses)), 0) + _EPSILON)

    def direct(
        leaves: list[jax.Array], geometry: Geometry, losses: jax.Array | None, state: DbMtlState
    ) -> tuple[list[jax.Array], jax.Array, DbMtlState]:
        stacked.check_kept("db_mtl", state.averages, leaves)
        step = state.step + 1
        dtype = geometry.norms.dtype
        keeps = beta / step.astype(dtype) ** beta_sigma
        reciprocals = of_logarithm(losses).astype(dtype)
        factors = (1 - keeps) * reciprocals
        averages = tuple(
            keeps * average + stacked.per_task(factors, leaf) * leaf
            for average, leaf in zip(state.averages, leaves, strict=True)
        )
        measured = measures.geometry(averages)
        factors = jnp.where(measured.norms > 0, jnp.max(measured.ratios, axis=0), 0)
        return measures.combine(factors, list(averages)), factors * reciprocals, DbMtlState(step, averages)

    def inner(leaves: list[jax.Array], dtype: jnp.dtype) -> DbMtlState:
        averages = tuple(jnp.zeros((num_tasks, *leaf.shape), dtype) for leaf in leaves)
        return DbMtlState(jnp.zeros((), jnp.int32), averages)

    return from_gradients(direct, num_tasks=num_tasks, inner=inner, own=of_logarithm, shared=shared)
