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
    """State of `stch`.

    Attributes:
        step: int32 [], complete updates so far.
        nadir_sum: [K], the sum of the losses whose mean is the nadir.
        weights: [K], of the last complete update; 1 at the start.
    """

    step: jax.Array
    nadir_sum: jax.Array
    weights: jax.Array


@spec.loss_balancing()
def stch(
    mu: float = 1.0,
    warmup_epochs: float = 4.0,
    nadir_epochs: float | None = None,
    steps_per_epoch: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Minimize a smooth maximum of the losses, each relative to its level in a warm-up.

    Formula:
        total = K μ log Σ_k exp(log(L_k / z_k) / μ),   w_k = K softmax_k(log(L / z) / μ) / L_k

        The nadir z is the mean of each loss over the warm-up, in which the total is Σ_k log L_k, as in
        `scale_invariant`.

    References:
        Lin et al. 2024, "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", in the form of its
        official code for multi-task learning.

    Differences from other implementations:
        The official code and LibMTL warm up for `STCH_warmup_epoch` epochs and average the nadir in one more, which is
        `warmup_epochs=STCH_warmup_epoch + 1, nadir_epochs=1`, and always report weights of 1. TorchJD applies the
        formula to gradient norms.

    Degenerate inputs:
        A loss of 0 or below is left out of sum and softmax: its weight is 0. A nadir that is not positive counts as 1.

    Args:
        mu: μ; towards 0 only the largest L_k / z_k counts.
        warmup_epochs: epochs of Σ log L; 0 makes z = 1.
        nadir_epochs: the last epochs of the warm-up, which are averaged; None: all of it.
        steps_per_epoch: updates in an epoch; None: 1, with a warning if there is a warm-up.

    Raises:
        ValueError: a μ that is not positive, a negative warm-up, a number of steps that is not a whole number of at
            least 1, or a nadir that is averaged over nothing or over more than the warm-up.

    >>> t = stch(warmup_epochs=1, steps_per_epoch=1)
    >>> state = t.init(jnp.zeros(2))
    >>> for losses in ([2.0, 4.0], [1.0, 6.0]):  # the nadir; 0.5 and 1.5 of it
    ...     weights, state = t.update(jnp.ones(2), state, jnp.array(losses))
    >>> [round(float(w), 4) for w in weights]
    [0.5, 0.25]
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

    def update(
        cotangents: jax.Array, state: StchState, losses: jax.Array, **extra_args: Any
    ) -> tuple[jax.Array, StchState]:
        del extra_args
        losses = losses.astype(state.weights.dtype)
        positive, log_losses = logs(losses)
        _, log_nadir = logs(state.nadir_sum / max(averaged, 1))
        exponent = jnp.where(positive, (log_losses - log_nadir) / mu, -jnp.finfo(log_losses.dtype).max)
        smooth = losses.size * jax.nn.softmax(exponent) * reciprocal(losses)
        weights = jnp.where(state.step < warmup, reciprocal(losses), finite(positive, smooth))
        counts = (state.step >= warmup - averaged) & (state.step < warmup)
        nadir_sum = state.nadir_sum + jnp.where(counts, losses, jnp.zeros_like(losses))
        return multiplied(cotangents, weights), StchState(state.step + 1, nadir_sum, weights)

    return optax.GradientTransformationExtraArgs(init, update)
