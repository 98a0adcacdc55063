"""Dynamic weight averaging."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options
from mtlflax.weighting.loss_balancing.vectors import multiplied, precision
from mtlflax.weighting.states import has_weights


@has_weights
class DwaState(NamedTuple):
    """State of `dwa` that counts epochs.

    Attributes:
        step: int32 [], updates so far.
        epoch_sum: [K], the losses of the current epoch, added up.
        last_mean: [K], the mean loss of the last epoch, L̄(t−1); 0 before there is one.
        previous_mean: [K], that of the epoch before, L̄(t−2); 0 before there is one.
        weights: [K], those of the last update; 1 at the start.
    """

    step: jax.Array
    epoch_sum: jax.Array
    last_mean: jax.Array
    previous_mean: jax.Array
    weights: jax.Array


@has_weights
class DwaWindowState(NamedTuple):
    """State of `dwa` with a window.

    Attributes:
        step: int32 [], updates so far.
        history: [2 · window, K], the last losses, the newest last; 1 where there have been none yet.
        weights: [K], those of the last update; 1 at the start.
    """

    step: jax.Array
    history: jax.Array
    weights: jax.Array


def dwa(
    temperature: float = 2.0, steps_per_epoch: int = 1, window: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """Dynamic weight averaging: tasks whose loss falls slower get more weight.

    With L̄_k(t) the mean unweighted training loss of task k in epoch t,

        w_k(t) = K · softmax_k(r(t) / T),   r_k(t) = L̄_k(t−1) / L̄_k(t−2),

    and w = 1 in the first two epochs (Liu, Johns & Davison 2019, "End-to-End Multi-Task Learning with Attention",
    eq. 7; MTAN's code, LibMTL). A task whose mean loss was 0 two epochs ago counts as r = 1.

    The repositories of nash-mtl and FAMO have moving windows instead of epochs: with `window` = W, r is the mean of the
    last W losses, the current one included, over that of the W before, w = 1 in the first W + 1 steps, and up to step
    2W, as in those repositories, losses that have not been yet count as 1. (They also divide the total by K.)

    Args:
        temperature: T, 2 in the paper; larger is closer to equal weights.
        steps_per_epoch: updates that make an epoch; 1 makes each update one. Without meaning where there is a window.
        window: None for epochs, or W in steps; 25 in the two repositories.

    Raises:
        ValueError: a temperature that is not positive; steps in an epoch or window that are no whole number from 1 on.

    >>> t = dwa()
    >>> state = t.init(jnp.zeros(2))
    >>> for losses in ([1.0, 1.0], [1.0, 4.0], [1.0, 1.0]):
    ...     weights, state = t.update(jnp.ones(2), state, jnp.array(losses))
    >>> [round(float(w), 4) for w in weights]
    [0.3649, 1.6351]
    """
    options.positive("dwa", temperature=temperature)
    options.count("dwa", steps_per_epoch=steps_per_epoch)
    if window is not None:
        options.count("dwa", window=window)
        return _windowed(temperature, window)

    def init(losses: jax.Array) -> DwaState:
        # Arrays of their own, not one thrice: a train step that donates its state may not be given one buffer twice.
        sums, last, previous = (jnp.zeros(losses.shape, precision(losses)) for _ in range(3))
        return DwaState(jnp.zeros((), jnp.int32), sums, last, previous, jnp.ones_like(sums))

    def update(
        cotangents: jax.Array, state: DwaState, losses: jax.Array, **extra_args: Any
    ) -> tuple[jax.Array, DwaState]:
        del extra_args
        epoch = state.step // steps_per_epoch
        dynamic = _dynamic(state.last_mean, state.previous_mean, temperature)
        weights = jnp.where(epoch < 2, jnp.ones_like(dynamic), dynamic)

        epoch_sum = state.epoch_sum + losses.astype(state.epoch_sum.dtype)
        step = state.step + 1
        ends = step % steps_per_epoch == 0
        state = DwaState(
            step=step,
            epoch_sum=jnp.where(ends, jnp.zeros_like(epoch_sum), epoch_sum),
            last_mean=jnp.where(ends, epoch_sum / steps_per_epoch, state.last_mean),
            previous_mean=jnp.where(ends, state.last_mean, state.previous_mean),
            weights=weights,
        )
        return multiplied(cotangents, weights), state

    return optax.GradientTransformationExtraArgs(init, update)


def _windowed(temperature: float, window: int) -> optax.GradientTransformationExtraArgs:
    """The method with a moving window of so many steps."""

    def init(losses: jax.Array) -> DwaWindowState:
        history = jnp.ones((2 * window, losses.size), precision(losses))
        return DwaWindowState(jnp.zeros((), jnp.int32), history, jnp.ones(losses.shape, history.dtype))

    def update(
        cotangents: jax.Array, state: DwaWindowState, losses: jax.Array, **extra_args: Any
    ) -> tuple[jax.Array, DwaWindowState]:
        del extra_args
        history = jnp.concatenate([state.history[1:], losses.astype(state.history.dtype)[None]])
        previous, last = jnp.mean(history[:window], axis=0), jnp.mean(history[window:], axis=0)
        dynamic = _dynamic(last, previous, temperature)
        weights = jnp.where(state.step <= window, jnp.ones_like(dynamic), dynamic)
        return multiplied(cotangents, weights), DwaWindowState(state.step + 1, history, weights)

    return optax.GradientTransformationExtraArgs(init, update)


def _dynamic(last: jax.Array, previous: jax.Array, temperature: float) -> jax.Array:
    """K · softmax(r / T) of r = last / previous, 1 where the previous mean is not positive."""
    known = previous > 0
    ratio = jnp.where(known, last / jnp.where(known, previous, 1), 1)
    # Losses 1e38 times apart would make this infinite, and the softmax NaN.
    exponent = jnp.minimum(ratio / temperature, jnp.finfo(ratio.dtype).max)
    return ratio.size * jax.nn.softmax(exponent)
