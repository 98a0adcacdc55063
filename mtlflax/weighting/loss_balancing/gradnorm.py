"""GradNorm: weights that make the tasks train at the same rate."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, spec
from mtlflax.weighting.loss_balancing.vectors import STEEPEST, learner, multiplied, per_task, precision
from mtlflax.weighting.states import has_weights

# The least weight before all are scaled to the sum of K: learned weights may come to 0 or below.
_SMALLEST = 1e-6


@has_weights
class GradNormState(NamedTuple):
    """State of `gradnorm`."""

    step: jax.Array
    initial_losses: jax.Array  # [K], L(0); 0 before the first update if they are that update's losses
    learned: jax.Array  # [K], the weights as the next update applies them, or the arguments of their softmax
    optimizer: Any  # of `learned`
    targets: jax.Array  # [K], the gradient norms aimed at in the last complete update; 0 at the start
    weights: jax.Array


@spec.loss_balancing(needs=("gradient_norms",), norms_of="last_shared")
def gradnorm(
    alpha: float = 1.5,
    parametrization: str = "direct",
    initial_losses: Sequence[float] | None = None,
    learning_rate: float = 0.025,
    optimizer: optax.GradientTransformation | None = None,
) -> spec.Transformation:
    """Learn weights that give larger gradients to tasks that train slower than the others.

    With n_k = |incoming cotangent|·‖g_k‖, the gradient norm of task k before this weighting, weights descend on

        Σ_k | w_k n_k − target_k |,   target_k = mean_j(w_j n_j) · (L̃_k / mean_j L̃_j)^α,   L̃_k = L_k / L_k(0),

    with constant targets, and are then scaled to Σ_k w_k = K. An update applies what the last one learned, the first 1.

    Source: Chen et al. 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks",
        equations 1 and 2, algorithm 1; there ‖g_k‖ is over the last shared layer.
    Differences: LibMTL learns ω, w = K softmax(ω) (`parametrization="softmax"`), with the network's optimizer, takes
        norms over all shared parameters (`norms_of="shared"`), keeps w = 1 in the first epoch, and takes the mean
        losses of that epoch as L(0). lucidrains' gradnorm-pytorch has the sign of α reversed.
    Degenerate inputs: a task with a zero gradient keeps its weight up to the scaling. Negative losses count as 0. If
        L(0) is not positive, or all losses are 0, the L̃ in question are 1. Directly learned weights are kept above
        1e-6, which the paper leaves open, and slopes within 1e18.

    Args:
        alpha: α, how strongly slower tasks are favored; 0 makes all weighted norms equal.
        parametrization: "direct", as in the paper, or "softmax".
        initial_losses: L(0); None: the losses of the first update. The paper advises log C for a cross-entropy over C
            classes if the first losses depend much on the initialization.
        learning_rate: of the weights.
        optimizer: of the weights.
    """
    options.not_negative("gradnorm", alpha=alpha)
    options.choice("gradnorm", ("direct", "softmax"), parametrization=parametrization)
    for loss in initial_losses or ():
        options.positive("gradnorm", initial_losses=loss)
    rule = learner("gradnorm", learning_rate, optimizer)
    direct = parametrization == "direct"

    def init(losses: jax.Array) -> GradNormState:
        dtype = precision(losses)
        first = jnp.zeros(losses.shape, dtype)
        if initial_losses is not None:
            first = per_task("gradnorm", "initial_losses", initial_losses, losses)
        learned = jnp.full(losses.shape, 1 if direct else 0, dtype)
        zeros, ones = jnp.zeros(losses.shape, dtype), jnp.ones(losses.shape, dtype)
        return GradNormState(jnp.zeros((), jnp.int32), first, learned, rule.init(learned), zeros, ones)

    def update(
        cotangents: jax.Array, state: GradNormState, losses: jax.Array, *, gradient_norms: jax.Array, **_: Any
    ) -> tuple[jax.Array, GradNormState]:
        dtype = state.weights.dtype
        losses = losses.astype(dtype)
        first = state.initial_losses
        if initial_losses is None:
            first = jnp.where(state.step == 0, losses, first)
        norms = jnp.abs(cotangents.astype(dtype)) * gradient_norms.astype(dtype)

        weights = state.learned if direct else losses.size * jax.nn.softmax(state.learned)
        weighted = weights * norms
        targets = jnp.mean(weighted) * _relative_rates(losses, first) ** alpha
        slopes = jnp.clip(jnp.sign(weighted - targets) * norms, -STEEPEST, STEEPEST)
        if not direct:  # through the softmax
            slopes = weights * (slopes - jnp.mean(weights * slopes))
        change, rule_state = rule.update(slopes, state.optimizer, state.learned)
        learned = optax.apply_updates(state.learned, change)
        if direct:
            learned = jnp.maximum(learned, _SMALLEST)
            learned = learned / jnp.mean(learned)
        given = multiplied(cotangents, weights)
        return given, GradNormState(state.step + 1, first, learned, rule_state, targets, weights)

    return optax.GradientTransformationExtraArgs(init, update)


def _relative_rates(losses: jax.Array, first: jax.Array) -> jax.Array:
    """L̃ / mean L̃: the inverse training rates, relative to their mean."""
    known = first > 0
    inverse = jnp.where(known, jnp.maximum(losses, 0) / jnp.where(known, first, 1), 1)
    inverse = jnp.minimum(inverse, jnp.finfo(inverse.dtype).max / inverse.size)  # so that the mean is finite
    mean = jnp.mean(inverse)
    return jnp.where(mean > 0, inverse / jnp.where(mean > 0, mean, 1), 1)
