"""GradNorm: weights are learned that make the tasks train at the same rate."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options
from mtlflax.weighting.loss_balancing.vectors import multiplied, per_task, precision, required
from mtlflax.weighting.states import has_weights

_PARAMETRISATIONS = ("direct", "softmax")
# A weight that has been learned to be 0 or negative starts again from here, before all are brought to the sum of K.
_SMALLEST = 1e-6
# The square of a slope has a place in float32, for Adam.
_STEEPEST = 1e18


@has_weights
class GradNormState(NamedTuple):
    """State of `gradnorm`.

    Attributes:
        step: int32 [], updates so far.
        initial_losses: [K], L(0); 0 before the first update where it is that update's losses.
        learned: [K], the weights as the next update applies them, or their softmax's arguments.
        optimizer: of what is learned.
        targets: [K], the gradient norms aimed at in the last update; 0 at the start.
        weights: [K], those of the last update; 1 at the start.
    """

    step: jax.Array
    initial_losses: jax.Array
    learned: jax.Array
    optimizer: Any
    targets: jax.Array
    weights: jax.Array


def gradnorm(
    alpha: float = 1.5,
    parametrisation: str = "direct",
    initial_losses: Sequence[float] | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """GradNorm: tasks that train slower than the others get larger gradients.

    With n_k = |incoming cotangent|·‖g_k‖, the gradient norm of task k before this weighting, weights descend on

        Σ_k | w_k n_k − target_k |,   target_k = mean_j(w_j n_j) · (L̃_k / mean_j L̃_j)^α,   L̃_k = L_k / L_k(0),

    targets being constants, and are then brought to Σ_k w_k = K (Chen et al. 2018, "GradNorm: Gradient Normalization
    for Adaptive Loss Balancing in Deep Multitask Networks", eq. 1 and 2, algorithm 1). An update applies the weights
    that the one before has learned; the first applies 1.

    `update` needs `gradient_norms` [K], the norms ‖g_k‖ of the unweighted task gradients: of the last shared layer in
    the paper, of all shared parameters in LibMTL and where `weighting.get` measures them.

    LibMTL learns ω, w = K softmax(ω) (`parametrisation="softmax"`), with the network's optimiser, keeps w = 1 in the
    first epoch, and takes that epoch's mean losses as L(0). lucidrains' gradnorm-pytorch has the sign of α reversed.

    A task with a zero gradient keeps its weight but for the renormalisation. Negative losses count as 0; an L(0) that
    is not positive, or losses that are all 0, make every L̃ of theirs 1. Directly learned weights are kept above 1e-6,
    which the paper leaves open, and slopes within 1e18.

    Args:
        alpha: α, how strongly slower tasks are favoured; 0 makes all weighted norms equal.
        parametrisation: "direct", as in the paper, or "softmax".
        initial_losses: L(0); None: the losses of the first update. The paper advises log C for a cross-entropy over C
            classes, where the first losses depend much on the initialisation.
        optimizer: of what is learned; Adam 0.025 by default.

    Raises:
        ValueError: an unknown parametrisation, an initial loss that is not positive; from `init`, another number of
            these than of tasks; from `update`, no `gradient_norms`.

    >>> t = gradnorm(initial_losses=(2.0, 3.0), optimizer=optax.sgd(0.01))
    >>> norms = jnp.array([4.2426, 6.1644])
    >>> weights, state = t.update(jnp.ones(2), t.init(jnp.zeros(2)), jnp.array([1.0, 2.0]), gradient_norms=norms)
    >>> [round(float(target), 3) for target in state.targets]
    [4.129, 6.357]
    >>> [round(float(w), 3) for w in state.learned]  # the first's norm is above its target, the second's below
    [0.948, 1.052]
    """
    options.not_negative("gradnorm", alpha=alpha)
    options.choice("gradnorm", _PARAMETRISATIONS, parametrisation=parametrisation)
    for loss in initial_losses or ():
        options.positive("gradnorm", initial_losses=loss)
    rule = optax.adam(0.025) if optimizer is None else optimizer
    direct = parametrisation == "direct"

    def init(losses: jax.Array) -> GradNormState:
        dtype = precision(losses)
        first = jnp.zeros(losses.shape, dtype)
        if initial_losses is not None:
            first = per_task("gradnorm", "initial_losses", initial_losses, losses)
        learned = jnp.full(losses.shape, 1 if direct else 0, dtype)
        zeros = jnp.zeros(losses.shape, dtype)
        return GradNormState(
            jnp.zeros((), jnp.int32), first, learned, rule.init(learned), zeros, jnp.ones(losses.shape, dtype)
        )

    def update(
        cotangents: jax.Array,
        state: GradNormState,
        losses: jax.Array,
        *,
        gradient_norms: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[jax.Array, GradNormState]:
        del extra_args
        dtype = state.weights.dtype
        losses = losses.astype(dtype)
        first = state.initial_losses
        if initial_losses is None:
            first = jnp.where(state.step == 0, losses, first)
        norms = required("gradnorm", "gradient_norms", gradient_norms).astype(dtype)
        norms = jnp.abs(cotangents.astype(dtype)) * norms

        weights = state.learned if direct else losses.size * jax.nn.softmax(state.learned)
        weighted = weights * norms
        targets = jnp.mean(weighted) * _relative_rates(losses, first) ** alpha
        slopes = jnp.clip(jnp.sign(weighted - targets) * norms, -_STEEPEST, _STEEPEST)
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
