"""ExcessMTL: weights grow with what is left to learn, by an estimate from the gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options
from mtlflax.weighting.loss_balancing.vectors import multiplied, precision, required
from mtlflax.weighting.states import has_weights

_EPSILON = 1e-7


@has_weights
class ExcessMtlState(NamedTuple):
    """State of `excess_mtl`; K times as large as the shared parameters.

    Attributes:
        step: int32 [], updates so far.
        squares: as the task gradients, [K, ...]: their squares, added up.
        initial: [K], each task's first excess that was not 0; 0 before.
        weights: [K], those of the last update; 1 at the start.
    """

    step: jax.Array
    squares: Any
    initial: jax.Array
    weights: jax.Array


def excess_mtl(
    step_size: float = 0.01, total: float | None = None, warmup_steps: int = 1, parameters: Any = None
) -> optax.GradientTransformationExtraArgs:
    """ExcessMTL: robust weights, which grow exponentially with each task's excess risk.

    With g_k the gradient of task k over the shared parameters, elementwise,

        s_k ← s_k + g_k²,   h_k = Σ g_k² / √(s_k + 1e-7),   w_k ← w_k · exp(η h_k / h_k(1)),

    then brought to Σ_k w_k = K; h, a diagonal estimate of gᵀ H⁻¹ g, measures how far a task is from the best loss that
    it can have (He et al. 2024, "Robust Multi-Task Learning with Excess Risks", eq. 6, 7 and 9). The first update sets
    h(1) and applies w = 1. LibMTL and the official code alike. TorchJD has η 1 and, as the paper, weights on the
    simplex, from 1/K on (`step_size=1.0, total=1.0`); without a warm-up it moves them at its first call too, by h as it
    is (`warmup_steps=0`).

    A task whose gradient is zero has h = 0. One that was zero from the first update on has h(1) from its first update
    that was not. Squares beyond the range of their dtype (gradients of 1e19 in float32) count as no excess.

    `update` needs `task_gradients`, a pytree of [K, ...], and `init(losses)` has to know of what shapes: the option
    `parameters` says so. `weighting.get` sets it from the parameters that its own `init` gets. It works on whole
    gradients, not on those that are spread over devices, since it keeps them.

    Args:
        step_size: η.
        total: what the weights sum to; None: K.
        warmup_steps: 1, as above, or 0.
        parameters: the shared parameters, or a pytree of `jax.ShapeDtypeStruct` like them.

    Raises:
        ValueError: a step size or total that is not positive, a warm-up that is neither 0 nor 1; from `init`, no
            `parameters`; from `update`, no `task_gradients`, or such that are not like them.

    >>> t = excess_mtl(step_size=1.0, parameters=jnp.zeros(1))
    >>> state = t.init(jnp.zeros(2))
    >>> for g in ([[3.0], [1.0]], [[4.0], [1.0]]):  # h = 3, 1; 16 / 5, 1 / √2
    ...     weights, state = t.update(jnp.ones(2), state, jnp.ones(2), task_gradients=jnp.array(g))
    >>> [round(float(w), 3) for w in weights]  # 2 softmax([16 / 15, 1 / √2])
    [1.178, 0.822]
    """
    options.positive("excess_mtl", step_size=step_size, total=1 if total is None else total)
    if warmup_steps not in (0, 1):
        raise ValueError(f"excess_mtl: warmup_steps must be 0 or 1, not {warmup_steps}")

    def init(losses: jax.Array) -> ExcessMtlState:
        if parameters is None:
            raise ValueError("excess_mtl: init needs the option parameters, which says of what shapes gradients are")
        dtype = precision(losses)
        squares = jax.tree.map(
            lambda p: jnp.zeros((losses.size, *p.shape), jnp.result_type(jnp.float32, p.dtype)), parameters
        )
        initial, weights = jnp.zeros(losses.shape, dtype), jnp.ones(losses.shape, dtype)
        return ExcessMtlState(jnp.zeros((), jnp.int32), squares, initial, weights)

    def update(
        cotangents: jax.Array,
        state: ExcessMtlState,
        losses: jax.Array | None = None,
        *,
        task_gradients: Any = None,
        **extra_args: Any,
    ) -> tuple[jax.Array, ExcessMtlState]:
        del losses, extra_args
        gradients = required("excess_mtl", "task_gradients", task_gradients)
        if jax.tree.map(jnp.shape, gradients) != jax.tree.map(jnp.shape, state.squares):
            raise ValueError("excess_mtl: task_gradients are not as parameters, each with a leading axis of the tasks")
        weights = state.weights
        squares, excess = _excess(gradients, state.squares, weights.dtype)

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
    """The squares added up, and h [K]."""
    gradients = jax.tree.map(lambda g, s: g.astype(s.dtype), gradients, squares)
    squares = jax.tree.map(lambda g, s: s + g**2, gradients, squares)

    def leaf(g: jax.Array, s: jax.Array) -> jax.Array:
        g = jnp.abs(g)  # divided first: the quotient is at most 1, and 0 where the square is infinite
        return jnp.sum((g * (g / jnp.sqrt(s + _EPSILON))).reshape(g.shape[0], -1), axis=1).astype(dtype)

    parts = jax.tree.leaves(jax.tree.map(leaf, gradients, squares))
    return squares, jnp.minimum(sum(parts), jnp.finfo(dtype).max)
