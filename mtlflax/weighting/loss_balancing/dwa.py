"""Dynamic weight averaging."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, spec
from mtlflax.weighting.loss_balancing.vectors import multiplied, precision
from mtlflax.weighting.states import has_weights


@has_weights
class DwaState(NamedTuple):
    """State of `dwa` by epochs."""

    step: jax.Array
    epoch_sum: jax.Array  # [K], the sum of the losses of the current epoch
    last_mean: jax.Array  # [K], the mean loss of the last epoch, L̄(t−1); 0 until there is one
    previous_mean: jax.Array  # [K], that of the epoch before, L̄(t−2); 0 until there is one
    weights: jax.Array


@has_weights
class DwaWindowState(NamedTuple):
    """State of `dwa` with a window."""

    step: jax.Array
    history: jax.Array  # [2 · window, K], the last losses, the newest last; 1 until there are any
    weights: jax.Array


@spec.loss_balancing()
def dwa(temperature: float = 2.0, steps_per_epoch: int | None = None, window: int | None = None) -> spec.Transformation:
    """Give more weight to tasks whose loss falls slower.

    With L̄_k(t) the mean unweighted training loss of task k in epoch t,

        w_k(t) = K · softmax_k(r(t) / T),   r_k(t) = L̄_k(t−1) / L̄_k(t−2),

    and w = 1 in the first two epochs.

    Source: Liu, Johns & Davison 2019, "End-to-End Multi-Task Learning with Attention", equation 7; MTAN's code, LibMTL.
    Differences: the repositories of nash-mtl and FAMO have a moving window instead of epochs. With `window` = W, r is
        the mean of the last W losses, the current one included, over that of the W before; w = 1 in the first W + 1
        steps; and up to step 2W, as there, missing losses count as 1. (They also divide the total by K.)
    Degenerate inputs: a task whose mean loss was 0 two epochs ago has r = 1.

    Args:
        temperature: T, 2 in the paper; larger is closer to equal weights.
        steps_per_epoch: updates in an epoch; None: 1, with a warning. Has no effect with a window.
        window: None for epochs, or W in steps; 25 in the two repositories.
    """
    options.positive("dwa", temperature=temperature)
    steps = options.epoch("dwa", steps_per_epoch, matters=window is None)
    if window is not None:
        options.count("dwa", window=window)
        return _windowed(temperature, window)

    def init(losses: jax.Array) -> DwaState:
        # Three arrays, not one three times: a train step that donates its state may not be given a buffer twice.
        sums, last, previous = (jnp.zeros(losses.shape, precision(losses)) for _ in range(3))
        return DwaState(jnp.zeros((), jnp.int32), sums, last, previous, jnp.ones_like(sums))

    def update(cotangents: jax.Array, state: DwaState, losses: jax.Array, **_: Any) -> tuple[jax.Array, DwaState]:
        epoch = state.step // steps
        dynamic = _dynamic(state.last_mean, state.previous_mean, temperature)
        weights = jnp.where(epoch < 2, jnp.ones_like(dynamic), dynamic)

        epoch_sum = state.epoch_sum + losses.astype(state.epoch_sum.dtype)
        step = state.step + 1
        ends = step % steps == 0
        state = DwaState(
            step=step,
            epoch_sum=jnp.where(ends, jnp.zeros_like(epoch_sum), epoch_sum),
            last_mean=jnp.where(ends, epoch_sum / steps, state.last_mean),
            previous_mean=jnp.where(ends, state.last_mean, state.previous_mean),
            weights=weights,
        )
        return multiplied(cotangents, weights), state

    return optax.GradientTransformationExtraArgs(init, update)


def _windowed(temperature: float, window: int) -> spec.Transformation:
    """The method with a moving window instead of epochs."""

    def init(losses: jax.Array) -> DwaWindowState:
        history = jnp.ones((2 * window, losses.size), precision(losses))
        return DwaWindowState(jnp.zeros((), jnp.int32), history, jnp.ones(losses.shape, history.dtype))

    def update(
        cotangents: jax.Array, state: DwaWindowState, losses: jax.Array, **_: Any
    ) -> tuple[jax.Array, DwaWindowState]:
        history = jnp.concatenate([state.history[1:], losses.astype(state.history.dtype)[None]])
        previous, last = jnp.mean(history[:window], axis=0), jnp.mean(history[window:], axis=0)
        dynamic = _dynamic(last, previous, temperature)
        weights = jnp.where(state.step <= window, jnp.ones_like(dynamic), dynamic)
        return multiplied(cotangents, weights), DwaWindowState(state.step + 1, history, weights)

    return optax.GradientTransformationExtraArgs(init, update)


def _dynamic(last: jax.Array, previous: jax.Array, temperature: float) -> jax.Array:
    """K · softmax(r / T) with r = last / previous, 1 if the previous mean is not positive."""
    known = previous > 0
    ratio = jnp.where(known, last / jnp.where(known, previous, 1), 1)
    # Losses 1e38 times apart would make this infinite, and the softmax NaN.
    exponent = jnp.minimum(ratio / temperature, jnp.finfo(ratio.dtype).max)
    return ratio.size * jax.nn.softmax(exponent)
