"""Totals that are functions of the losses' logarithms, so that the scale of a loss does not matter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options
from mtlflax.weighting.loss_balancing.vectors import multiplied, precision
from mtlflax.weighting.states import has_weights


@has_weights
class LogarithmicState(NamedTuple):
    """State of `scale_invariant` and `geometric`.

    Attributes:
        weights: [K], those of the last update; 1 at the start.
    """

    weights: jax.Array


@has_weights
class StchState(NamedTuple):
    """State of `stch`.

    Attributes:
        step: int32 [], updates so far.
        nadir_sum: [K], the losses whose mean is the nadir, added up.
        weights: [K], those of the last update; 1 at the start.
    """

    step: jax.Array
    nadir_sum: jax.Array
    weights: jax.Array


def scale_invariant() -> optax.GradientTransformationExtraArgs:
    """Scale-invariant linear scalarisation: the sum of the losses' logarithms.

        total = Σ_k log L_k,   w_k = 1 / L_k

    (the baseline "SI" of Navon et al. 2022, "Multi-Task Learning as a Bargaining Game"). A task whose loss is 0 or
    negative has no logarithm and is left out: its weight is 0. nash-mtl's code gives NaN there.

    >>> t = scale_invariant()
    >>> weights, _ = t.update(jnp.ones(3), t.init(jnp.zeros(3)), jnp.array([0.5, 4.0, 0.0]))
    >>> weights.tolist()
    [2.0, 0.25, 0.0]
    """
    return _stateless(_reciprocal)


def geometric() -> optax.GradientTransformationExtraArgs:
    """The geometric loss strategy (GLS): the geometric mean of the losses.

        total = (∏_k L_k)^(1/K),   w_k = total / (K L_k)

    (Chennupati et al. 2019, "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task
    Learning"), computed with logarithms, so that products neither overflow nor
    vanish. LibMTL multiplies first, and reports other weights than those that it applies.

    A task whose loss is 0 or negative is left out: its weight is 0, and the mean is that of the others. Taken to the
    letter, one loss of 0 (a batch without labels for a task, say) would stop all tasks.

    >>> t = geometric()
    >>> weights, _ = t.update(jnp.ones(3), t.init(jnp.zeros(3)), jnp.array([1.0, 2.0, 4.0]))
    >>> [round(float(w), 4) for w in weights]
    [0.6667, 0.3333, 0.1667]
    """

    def weigh(losses: jax.Array) -> jax.Array:
        positive, logs = _logs(losses)
        count = jnp.maximum(jnp.sum(positive), 1)
        return _finite(positive, jnp.exp(jnp.sum(logs) / count - logs) / count)

    return _stateless(weigh)


def stch(
    mu: float = 1.0,
    warmup_epochs: float = 4.0,
    nadir_epochs: float | None = None,
    steps_per_epoch: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Smooth Tchebycheff scalarisation: a smooth maximum of the losses, each measured by its level after a warm-up.

        total = K μ log Σ_k exp(log(L_k / z_k) / μ),   w_k = K softmax_k(log(L / z) / μ) / L_k

    (Lin et al. 2024, "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", in the form of its official
    code for multi-task learning). The nadir z is the mean of each loss over the warm-up, in which the total is
    Σ_k log L_k, as in `scale_invariant`.

    The official code and LibMTL warm up for `STCH_warmup_epoch` epochs and average the nadir in one more: that is
    `warmup_epochs=STCH_warmup_epoch + 1, nadir_epochs=1`; they report weights of 1 whatever they apply. TorchJD applies
    the formula to gradient norms.

    A task whose loss is 0 or negative is left out of sum and softmax, its weight is 0; a nadir that is not positive
    counts as 1.

    Args:
        mu: μ; towards 0 the largest L_k / z_k counts alone.
        warmup_epochs: of Σ log L; 0 makes z = 1.
        nadir_epochs: the last so many of the warm-up are averaged; None: all.
        steps_per_epoch: updates that make an epoch.

    Raises:
        ValueError: a μ that is not positive, a negative warm-up, steps in an epoch that are no whole number
            from 1 on, or a nadir that is
            averaged over nothing or more than the warm-up.

    >>> t = stch(warmup_epochs=1)
    >>> state = t.init(jnp.zeros(2))
    >>> for losses in ([2.0, 4.0], [1.0, 6.0]):  # the nadir; 0.5 and 1.5 of it
    ...     weights, state = t.update(jnp.ones(2), state, jnp.array(losses))
    >>> [round(float(w), 4) for w in weights]
    [0.5, 0.25]
    """
    options.positive("stch", mu=mu)
    options.count("stch", steps_per_epoch=steps_per_epoch)
    options.not_negative("stch", warmup_epochs=warmup_epochs)
    warmup = round(warmup_epochs * steps_per_epoch)
    averaged = warmup if nadir_epochs is None else round(nadir_epochs * steps_per_epoch)
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
        positive, logs = _logs(losses)
        _, log_nadir = _logs(state.nadir_sum / max(averaged, 1))
        exponent = jnp.where(positive, (logs - log_nadir) / mu, -jnp.finfo(logs.dtype).max)
        smooth = losses.size * jax.nn.softmax(exponent) * _reciprocal(losses)
        weights = jnp.where(state.step < warmup, _reciprocal(losses), _finite(positive, smooth))
        counts = (state.step >= warmup - averaged) & (state.step < warmup)
        nadir_sum = state.nadir_sum + jnp.where(counts, losses, jnp.zeros_like(losses))
        return multiplied(cotangents, weights), StchState(state.step + 1, nadir_sum, weights)

    return optax.GradientTransformationExtraArgs(init, update)


def _stateless(weigh: Any) -> optax.GradientTransformationExtraArgs:
    """Weights that are a function of the current losses."""

    def init(losses: jax.Array) -> LogarithmicState:
        return LogarithmicState(jnp.ones(losses.shape, precision(losses)))

    def update(
        cotangents: jax.Array, state: LogarithmicState, losses: jax.Array, **extra_args: Any
    ) -> tuple[jax.Array, LogarithmicState]:
        del extra_args
        weights = weigh(losses.astype(state.weights.dtype))
        return multiplied(cotangents, weights), LogarithmicState(weights)

    return optax.GradientTransformationExtraArgs(init, update)


def _logs(losses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which losses are positive, and their logarithms, 0 for the others."""
    positive = losses > 0
    return positive, jnp.log(jnp.where(positive, losses, 1))


def _reciprocal(losses: jax.Array) -> jax.Array:
    """1 / L, 0 where L is not positive."""
    positive = losses > 0
    return _finite(positive, 1 / jnp.where(positive, losses, 1))


def _finite(positive: jax.Array, weights: jax.Array) -> jax.Array:
    """Weights of the tasks that count, 0 for the others; losses below 1e-38 would make them infinite."""
    return jnp.where(positive, jnp.minimum(weights, jnp.finfo(weights.dtype).max), 0)
