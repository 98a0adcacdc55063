"""Dynamic weight averaging."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class DwaState(NamedTuple):
    """State of `dwa`.

    Attributes:
        step: int32 [], updates so far.
        epoch_sum: float32 [K], the losses of the current epoch, added up.
        last_mean: float32 [K], the mean loss of the last epoch, L̄(t−1); 0 before there is one.
        previous_mean: float32 [K], that of the epoch before, L̄(t−2); 0 before there is one.
        weights: float32 [K], those of the last update; 1 at the start.
    """

    step: jax.Array
    epoch_sum: jax.Array
    last_mean: jax.Array
    previous_mean: jax.Array
    weights: jax.Array


def dwa(temperature: float = 2.0, steps_per_epoch: int = 1) -> optax.GradientTransformationExtraArgs:
    """Dynamic weight averaging: tasks whose loss falls slower get more weight.

    With L̄_k(t) the mean unweighted training loss of task k in epoch t,

        w_k(t) = K · softmax_k(r(t) / T),   r_k(t) = L̄_k(t−1) / L̄_k(t−2),

    and w = 1 in the first two epochs (Liu, Johns & Davison 2019, "End-to-End Multi-Task Learning with Attention",
    eq. 7). A task whose mean loss was 0 two epochs ago counts as r = 1. The "EWDW" (equal weights, dynamic weight
    averaging) of Mahyoub et al. 2023 is this method, its first two epochs being the equal weights; they do not define
    the name, this is our reading.

    Args:
        temperature: T, 2 in the paper; larger is closer to equal weights.
        steps_per_epoch: updates that make an epoch; 1 makes each update one.

    Raises:
        ValueError: a temperature that is not positive, or fewer than one step an epoch.

    >>> t = dwa()
    >>> state = t.init(jnp.zeros(2))
    >>> for losses in ([1.0, 1.0], [1.0, 4.0], [1.0, 1.0]):
    ...     weights, state = t.update(jnp.ones(2), state, jnp.array(losses))
    >>> [round(float(w), 4) for w in weights]
    [0.3649, 1.6351]
    """
    if not temperature > 0:
        raise ValueError(f"dwa: temperature must be positive, not {temperature}")
    if steps_per_epoch < 1:
        raise ValueError(f"dwa: steps_per_epoch must be at least 1, not {steps_per_epoch}")

    def init(losses: jax.Array) -> DwaState:
        # Arrays of their own, not one thrice: a train step that donates its state may not be given one buffer twice.
        sums, last, previous = (jnp.zeros(losses.shape, jnp.float32) for _ in range(3))
        return DwaState(jnp.zeros((), jnp.int32), sums, last, previous, jnp.ones_like(sums))

    def update(
        cotangents: jax.Array, state: DwaState, losses: jax.Array, **extra_args: Any
    ) -> tuple[jax.Array, DwaState]:
        del extra_args
        epoch = state.step // steps_per_epoch
        known = state.previous_mean > 0
        ratio = jnp.where(known, state.last_mean / jnp.where(known, state.previous_mean, 1.0), 1.0)
        # Losses 1e38 times apart would make the ratio infinite, and the softmax NaN.
        ratio = jnp.minimum(ratio, jnp.finfo(jnp.float32).max)
        dynamic = losses.size * jax.nn.softmax(ratio / temperature)
        weights = jnp.where(epoch < 2, jnp.ones_like(dynamic), dynamic)

        epoch_sum = state.epoch_sum + losses.astype(jnp.float32)
        step = state.step + 1
        ends = step % steps_per_epoch == 0
        state = DwaState(
            step=step,
            epoch_sum=jnp.where(ends, jnp.zeros_like(epoch_sum), epoch_sum),
            last_mean=jnp.where(ends, epoch_sum / steps_per_epoch, state.last_mean),
            previous_mean=jnp.where(ends, state.last_mean, state.previous_mean),
            weights=weights,
        )
        return cotangents * weights, state

    return optax.GradientTransformationExtraArgs(init, update)
