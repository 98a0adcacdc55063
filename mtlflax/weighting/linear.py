"""From loss space to gradient space: a loss balancing as a linear combination of stacked task gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class LinearCombinationState(NamedTuple):
    """State of `linear_combination`.

    Attributes:
        inner: the state of the loss-space transform.
    """

    inner: Any


def linear_combination(
    balancing: optax.GradientTransformationExtraArgs, *, num_tasks: int
) -> optax.GradientTransformationExtraArgs:
    """Lifts a loss-space transform to stacked task gradients: Σ_k w_k g_k over every parameter.

    The sum is taken in float32 and returned in the gradients' own dtype. Extra arguments of `update` other than
    `losses` are handed to the loss-space transform.

    Args:
        balancing: a transform in loss space, a chain of several included.
        num_tasks: K.

    Raises:
        ValueError: K below 1, or (from `update`) gradients whose leading axis is not K.
    """
    if num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, not {num_tasks}")

    def init(params: optax.Params) -> LinearCombinationState:
        del params
        return LinearCombinationState(balancing.init(jnp.zeros(num_tasks)))

    def update(
        updates: optax.Updates,
        state: LinearCombinationState,
        params: optax.Params | None = None,
        *,
        losses: jax.Array,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LinearCombinationState]:
        del params
        cotangents = jnp.ones(num_tasks)
        weights, inner = balancing.update(cotangents, state.inner, losses, **extra_args)

        def combine(gradients: jax.Array) -> jax.Array:
            if gradients.shape[:1] != (num_tasks,):
                raise ValueError(
                    f"expected task gradients with a leading axis of {num_tasks} tasks, got shape {gradients.shape}"
                )
            total = jnp.tensordot(weights, gradients.astype(jnp.float32), axes=1, precision=jax.lax.Precision.HIGHEST)
            return total.astype(gradients.dtype)

        return jax.tree.map(combine, updates), LinearCombinationState(inner)

    return optax.GradientTransformationExtraArgs(init, update)
