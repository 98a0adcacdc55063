"""Weights e^±s whose logarithmic scales s are learned beside the network, by an optimiser of their own."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting.loss_balancing.vectors import multiplied, per_task, precision
from mtlflax.weighting.states import has_weights

# |s| is kept to this: the best s for a loss L is ± log L, and e^50 is 5e21. A loss of 0 would drive s on for ever.
_LARGEST = 50.0
# The square of a slope has a place in float32, for Adam.
_STEEPEST = 1e18

_KINDS = {"classification": 1.0, "regression": 0.5}


@has_weights
class LearnedState(NamedTuple):
    """State of `uncertainty` and `imtl_l`.

    Attributes:
        scales: [K], s, as the next update applies it.
        optimizer: of s.
        weights: [K], those of the last update; 1 at the start.
    """

    scales: jax.Array
    optimizer: Any
    weights: jax.Array


def uncertainty(
    kinds: Sequence[str] | None = None,
    initial: float = 0.0,
    optimizer: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Homoscedastic uncertainty: each task's noise variance σ² is learned, s = log σ².

        total = Σ_k ½ e^(−s_k) L_k + ½ s_k,   w_k = ½ e^(−s_k)

    and s descends on the same total (Kendall, Gal & Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh
    Losses for Scene Geometry and Semantics"). This is the form for squared errors, which nearly every implementation
    (LibMTL, MTAN, nash-mtl) has for all tasks; with `kinds` a task of classification gets w_k = e^(−s_k), as in the
    paper's eq. 10.

    At s = 0 the weights are ½, not 1. The best s for a loss that stands still is log L (log 2L for classification):
    weights are then 1 / (2 L). |s| is kept within 50, for a loss that stays 0, or is negative, drives it on for ever,
    and slopes within 1e18; both far from where training is. In a chain s is learned from the losses as they are,
    whatever the cotangents.

    Args:
        kinds: "classification" or "regression" for each task; None: all regression.
        initial: s at the start. 0 in nash-mtl and here; −0.5 in MTAN and LibMTL, −0.7 in auto-lambda.
        optimizer: of s; Adam 1e-4 by default. Elsewhere the network's own optimiser has s among its parameters.

    Raises:
        ValueError: an unknown kind, an initial value beyond ±50; from `init`, another number of kinds than of tasks.

    >>> t = uncertainty(optimizer=optax.sgd(0.1))
    >>> weights, state = t.update(jnp.ones(3), t.init(jnp.zeros(3)), jnp.array([1.0, 2.0, 4.0]))
    >>> weights.tolist(), [round(float(s), 4) for s in state.scales]  # the total is 3.5
    ([0.5, 0.5, 0.5], [0.0, 0.05, 0.15])
    """
    for kind in kinds or ():
        if kind not in _KINDS:
            raise ValueError(f"uncertainty: kinds has {kind!r}: choose of {', '.join(_KINDS)}")
    factors = None if kinds is None else tuple(_KINDS[kind] for kind in kinds)

    def weigh(scales: jax.Array) -> jax.Array:
        halves = 0.5 if factors is None else per_task("uncertainty", "kinds", factors, scales)
        return halves * jnp.exp(-scales)

    return _learned("uncertainty", weigh, lambda weights, losses: 0.5 - weights * losses, initial, optimizer)


def imtl_l(
    initial: float = 0.0, optimizer: optax.GradientTransformation | None = None
) -> optax.GradientTransformationExtraArgs:
    """The loss balance of impartial multi-task learning: scales are learned that bring every loss to 1.

        total = Σ_k e^(s_k) L_k − s_k,   w_k = e^(s_k)

    and s descends on the same total (Liu et al. 2021, "Towards Impartial Multi-task Learning", section 3.2). The best s
    for a loss that stands still is −log L. LibMTL has it only together with IMTL-G.

    |s| is kept within 50, for a loss that stays 0, or is negative, drives it on for ever, and slopes within 1e18. In a
    chain s is learned from the losses as they are, whatever the cotangents.

    Args:
        initial: s at the start; 0 in the paper and LibMTL.
        optimizer: of s; Adam 1e-4 by default. In LibMTL the network's own optimiser has s among its parameters.

    Raises:
        ValueError: an initial value beyond ±50.

    >>> t = imtl_l(optimizer=optax.sgd(0.1))
    >>> weights, state = t.update(jnp.ones(3), t.init(jnp.zeros(3)), jnp.array([1.0, 2.0, 4.0]))
    >>> weights.tolist(), [round(float(s), 4) for s in state.scales]  # the total is 7
    ([1.0, 1.0, 1.0], [0.0, -0.1, -0.3])
    """
    return _learned("imtl_l", jnp.exp, lambda weights, losses: weights * losses - 1, initial, optimizer)


def _learned(
    method: str,
    weigh: Callable[[jax.Array], jax.Array],
    slope: Callable[[jax.Array, jax.Array], jax.Array],
    initial: float,
    optimizer: optax.GradientTransformation | None,
) -> optax.GradientTransformationExtraArgs:
    """Scales → weights, and (weights, losses) → the total's slope in the scales."""
    if not abs(initial) <= _LARGEST:
        raise ValueError(f"{method}: initial must be within ±{_LARGEST:g}, not {initial}")
    rule = optax.adam(1e-4) if optimizer is None else optimizer

    def init(losses: jax.Array) -> LearnedState:
        scales = jnp.full(losses.shape, initial, precision(losses))
        weigh(scales)  # to name a wrong number of options here
        return LearnedState(scales, rule.init(scales), jnp.ones_like(scales))

    def update(
        cotangents: jax.Array, state: LearnedState, losses: jax.Array, **extra_args: Any
    ) -> tuple[jax.Array, LearnedState]:
        del extra_args
        weights = weigh(state.scales)
        gradient = jnp.clip(slope(weights, losses.astype(weights.dtype)), -_STEEPEST, _STEEPEST)
        change, rule_state = rule.update(gradient, state.optimizer, state.scales)
        scales = jnp.clip(optax.apply_updates(state.scales, change), -_LARGEST, _LARGEST)
        return multiplied(cotangents, weights), LearnedState(scales, rule_state, weights)

    return optax.GradientTransformationExtraArgs(init, update)
