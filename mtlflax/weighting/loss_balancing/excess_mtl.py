"""ExcessMTL: weights that grow with an estimate of what is left to learn."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, spec
from mtlflax.weighting.loss_balancing.vectors import multiplied, precision
from mtlflax.weighting.states import has_weights

_EPSILON = 1e-7


@has_weights
class ExcessMtlState(NamedTuple):
    """State of `excess_mtl`; K times as large as the shared parameters."""

    step: jax.Array
    squares: Any  # as the task gradients, [K, ...]: the sum of their squares
    initial: jax.Array  # [K], each task's first excess that was not 0; 0 before
    weights: jax.Array


@spec.loss_balancing(needs=("task_gradients",), keeps_gradients=True)
def excess_mtl(
    step_size: float = 0.01, total: float | None = None, warmup_steps: int = 1, parameters: Any = None
) -> spec.Transformation:
    """Give tasks exponentially more weight the larger their excess risk is.

    With g_k the gradient of task k over the shared parameters, elementwise,

        s_k ← s_k + g_k²,   h_k = Σ g_k² / √(s_k + 1e-7),   w_k ← w_k · exp(η h_k / h_k(1)),

    then scaled to Σ_k w_k = K. h, a diagonal estimate of gᵀ H⁻¹ g, measures how far a task is from its best possible
    loss. The first update sets h(1) and applies w = 1.

    Source: He et al. 2024, "Robust Multi-Task Learning with Excess Risks", equations 6, 7 and 9; LibMTL, official code.
    Differences: TorchJD has η 1 and, like the paper, weights on the simplex, starting from 1/K (`step_size=1.0,
        total=1.0`); without a warm-up its first call moves them too, by h as it is (`warmup_steps=0`).
    Degenerate inputs: a task whose gradient is zero has h = 0, and h(1) from its first update with another one. Squares
        beyond the range of their dtype (gradients of 1e19 in float32) count as no excess.

    Args:
        step_size: η.
        total: the sum of the weights; None: K.
        warmup_steps: 1, as above, or 0.
        parameters: the shared parameters, or a pytree of `jax.ShapeDtypeStruct` like them, from which `init` learns the
            shapes of `task_gradients`. `weighting.get` passes it.
    """
    options.positive("excess_mtl", step_size=step_size, total=1 if total is None else total)
    if warmup_steps not in (0, 1):
        raise ValueError(f"excess_mtl: warmup_steps must be 0 or 1, not {warmup_steps}")

    def init(losses: jax.Array) -> ExcessMtlState:
        if parameters is None:
            raise ValueError("excess_mtl: init needs the shapes of the gradients: pass parameters=...")
        dtype, tasks = precision(losses), losses.size
        squares = jax.tree.map(lambda p: jnp.zeros((tasks, *p.shape), jnp.result_type(jnp.float32, p)), parameters)
        initial, weights = jnp.zeros(losses.shape, dtype), jnp.ones(losses.shape, dtype)
        return ExcessMtlState(jnp.zeros((), jnp.int32), squares, initial, weights)

    def update(
        cotangents: jax.Array, state: ExcessMtlState, losses: Any = None, *, task_gradients: Any, **_: Any
    ) -> tuple[jax.Array, ExcessMtlState]:
        if jax.tree.map(jnp.shape, task_gradients) != jax.tree.map(jnp.shape, state.squares):
            raise ValueError("excess_mtl: task_gradients do not match the parameters, each with a leading task axis")
        weights = state.weights
        squares, excess = _excess(task_gradients, state.squares, weights.dtype)

        first = state.step == 0
        initial = jnp.where(state.initial > 0, state.initial, excess)
        ratio = jnp.where(initial > 0, excess / jnp.where(initial > 0, initial, 1), 0)
        # In the logarithm, since exp(η h) may be beyond any range; a weight of 0 stays 0.
        exponent = jnp.minimum(jnp.where(first, excess, ratio), jnp.finfo(excess.dtype).max / 2 / max(step_size, 1))
        before = jnp.where(first, jnp.ones_like(weights), weights)
        goal = weights.size if total is None else total
        if warmup_steps:
            exponent = jnp.where(first, 0, exponent)
        weights = goal * jax.nn.softmax(jnp.log(before) + step_size * exponent)
        return multiplied(cotangents, weights), ExcessMtlState(state.step + 1, squares, initial, weights)

    return optax.GradientTransformationExtraArgs(init, update)


def _excess(gradients: Any, squares: Any, dtype: Any) -> tuple[Any, jax.Array]:
    """The sums of squares, and h [K]."""
    gradients = jax.tree.map(lambda g, s: g.astype(s.dtype), gradients, squares)
    squares = jax.tree.map(lambda g, s: s + g**2, gradients, squares)

    def leaf(g: jax.Array, s: jax.Array) -> jax.Array:
        g = jnp.abs(g)  # divided first: the quotient is at most 1, and 0 where the square is infinite
        return jnp.sum((g * (g / jnp.sqrt(s + _EPSILON))).reshape(g.shape[0], -1), axis=1).astype(dtype)

    parts = jax.tree.leaves(jax.tree.map(leaf, gradients, squares))
    return squares, jnp.minimum(sum(parts), jnp.finfo(dtype).max)
