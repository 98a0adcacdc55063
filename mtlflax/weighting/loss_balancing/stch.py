"""Smooth Tchebycheff scalarization."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, spec
from mtlflax.weighting.loss_balancing.logarithms import finite, logs, reciprocal
from mtlflax.weighting.loss_balancing.vectors import multiplied, precision
from mtlflax.weighting.states import has_weights


@has_weights
class StchState(NamedTuple):
    """State of `stch`."""

    step: jax.Array
    nadir_sum: jax.Array  # [K], the sum of the losses whose mean is the nadir
    weights: jax.Array


@spec.loss_balancing()
def stch(
    mu: float = 1.0, warmup_epochs: float = 4.0, nadir_epochs: float | None = None, steps_per_epoch: int | None = None
) -> spec.Transformation:
    """Minimize a smooth maximum of the losses, each relative to its level in a warm-up.

    total = K μ log Σ_k exp(log(L_k / z_k) / μ),   w_k = K softmax_k(log(L / z) / μ) / L_k

    The nadir z is the mean of each loss over the warm-up, in which the total is Σ_k log L_k, as in `scale_invariant`.

    Source: Lin et al. 2024, "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", in the form of its
        official code for multi-task learning.
    Differences: the official code and LibMTL warm up for `STCH_warmup_epoch` epochs and average the nadir in one more,
        which is `warmup_epochs=STCH_warmup_epoch + 1, nadir_epochs=1`, and always report weights of 1. TorchJD applies
        the formula to gradient norms.
    Degenerate inputs: a loss of 0 or below is left out of sum and softmax: its weight is 0. A nadir that is not
        positive counts as 1.

    Args:
        mu: μ; towards 0 only the largest L_k / z_k counts.
        warmup_epochs: epochs of Σ log L; 0 makes z = 1.
        nadir_epochs: the last epochs of the warm-up, which are averaged; None: all of it.
        steps_per_epoch: updates in an epoch; None: 1, with a warning if there is a warm-up.
    """
    options.positive("stch", mu=mu)
    options.not_negative("stch", warmup_epochs=warmup_epochs)
    steps = options.epoch("stch", steps_per_epoch, matters=warmup_epochs > 0)
    warmup = round(warmup_epochs * steps)
    averaged = warmup if nadir_epochs is None else round(nadir_epochs * steps)
    if warmup and not 1 <= averaged <= warmup:
        raise ValueError(f"stch: nadir_epochs is {nadir_epochs}, which is not a part of {warmup_epochs} warmup_epochs")

    def init(losses: jax.Array) -> StchState:
        sums = jnp.zeros(losses.shape, precision(losses))
        return StchState(jnp.zeros((), jnp.int32), sums, jnp.ones_like(sums))

    def update(cotangents: jax.Array, state: StchState, losses: jax.Array, **_: Any) -> tuple[jax.Array, StchState]:
        losses = losses.astype(state.weights.dtype)
        positive, log_losses = logs(losses)
        log_nadir = logs(state.nadir_sum / max(averaged, 1))[1]
        exponent = jnp.where(positive, (log_losses - log_nadir) / mu, -jnp.finfo(log_losses.dtype).max)
        smooth = losses.size * jax.nn.softmax(exponent) * reciprocal(losses)
        weights = jnp.where(state.step < warmup, reciprocal(losses), finite(positive, smooth))
        counts = (state.step >= warmup - averaged) & (state.step < warmup)
        nadir_sum = state.nadir_sum + jnp.where(counts, losses, jnp.zeros_like(losses))
        return multiplied(cotangents, weights), StchState(state.step + 1, nadir_sum, weights)

    return optax.GradientTransformationExtraArgs(init, update)
