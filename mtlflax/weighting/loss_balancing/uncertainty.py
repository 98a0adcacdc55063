"""Homoscedastic uncertainty."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, spec
from mtlflax.weighting.loss_balancing.scales import learned
from mtlflax.weighting.loss_balancing.vectors import per_task

_KINDS = {"classification": 1.0, "regression": 0.5}


@spec.loss_balancing()
def uncertainty(
    kinds: Sequence[str] | None = None,
    initial: float = 0.0,
    learning_rate: float = 1e-4,
    optimizer: optax.GradientTransformation | None = None,
) -> spec.Transformation:
    """Weigh losses by a learned noise variance σ² of each task, s = log σ².

    total = Σ_k ½ e^(−s_k) L_k + ½ s_k,   w_k = ½ e^(−s_k), and s descends on the same total. With `kinds`, a
    classification gets w_k = e^(−s_k). At s = 0 the weights are ½, not 1. The best s for a constant loss is log L
    (log 2L for a classification), with weights 1 / (2 L). In a chain s is learned from the losses as they are.

    Source: Kendall, Gal & Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
        Semantics"; classification: equation 10.
    Differences: LibMTL, MTAN and nash-mtl have the form for squared errors for all tasks, as the default here, and
        learn s with the network's own optimizer.
    Degenerate inputs: a loss that stays at 0 or below drives s on forever: |s| is kept within 50, and slopes within
        1e18, both far from where training is.

    Args:
        kinds: "classification" or "regression" for each task; None: all regression.
        initial: s at the start, within ±50; 0 as in nash-mtl; −0.5 in MTAN and LibMTL, −0.7 in auto-lambda.
        learning_rate: of s.
        optimizer: of s.
    """
    for kind in kinds or ():
        options.choice("uncertainty", tuple(_KINDS), kinds=kind)
    factors = None if kinds is None else tuple(_KINDS[kind] for kind in kinds)

    def weigh(scales: jax.Array) -> jax.Array:
        halves = 0.5 if factors is None else per_task("uncertainty", "kinds", factors, scales)
        return halves * jnp.exp(-scales)

    def slope(weights: jax.Array, losses: jax.Array) -> jax.Array:
        return 0.5 - weights * losses

    return learned("uncertainty", weigh, slope, initial, learning_rate, optimizer)
