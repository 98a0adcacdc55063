"""GradDrop: gradient sign dropout."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, spec
from mtlflax.weighting.stacked import Geometry, from_gradients


class GradDropState(NamedTuple):
    """State of `graddrop`.

    Attributes:
        step: int32 [], complete updates so far.
    """

    step: jax.Array


@spec.gradient_balancing()
def graddrop(
    num_tasks: int,
    *,
    leak: float = 0.0,
    seed: int = 0,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """In each coordinate pass gradients of one sign only, drawn by how pure the sign is.

    Formula:
        With U uniform in [0, 1), drawn for every coordinate and update,

            P = ½ (1 + Σ_k g_k / Σ_k │g_k│),    d = Σ_k g_k where P > U: those g_k > 0, elsewhere those g_k < 0.

        There are no weights.

    References:
        Chen et al. 2020, "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout", algorithm 1,
        f the identity; TorchJD.

    Differences from other implementations:
        The paper, and LibMTL, apply it to the features' gradients, times the features' signs and summed over a batch;
        TorchJD and this to any gradients. TorchJD can have a leak for each task. With `axis_name` every device draws
        for its own coordinates, so the draws depend on the number of devices.

    Degenerate inputs:
        Coordinates whose gradients agree in sign pass whole; a coordinate of zeros stays 0.

    Args:
        leak: the part of the dropped gradients that passes nevertheless.
        seed: of U.

    Raises:
        ValueError: a leak outside 0..1.

    >>> t = graddrop(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> float(d[0]) in (-4.0, 6.0), d[1:].tolist()
    (True, [2.0, 2.0])
    """
    options.part("graddrop", leak=leak)

    def direct(
        leaves: list[jax.Array], geometry: Geometry, losses: jax.Array | None, state: GradDropState
    ) -> tuple[list[jax.Array], None, GradDropState]:
        del geometry, losses
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        out = []
        for i, leaf in enumerate(leaves):
            draw = jax.random.uniform(jax.random.fold_in(key, i), leaf.shape[1:], leaf.dtype)
            largest = jnp.max(jnp.abs(leaf), axis=0)  # divided first, since sums of the largest numbers overflow
            scaled = leaf / jnp.where(largest > 0, largest, 1)[None]
            total = jnp.sum(jnp.abs(scaled), axis=0)
            purity = (1 + jnp.sum(scaled, axis=0) / jnp.where(total > 0, total, 1)) / 2
            passes = jnp.where((purity > draw)[None], leaf > 0, leaf < 0)
            out.append(jnp.sum(jnp.where(passes, leaf, leak * leaf), axis=0))
        return out, None, GradDropState(state.step + 1)

    return from_gradients(
        direct,
        num_tasks=num_tasks,
        inner=lambda leaves, dtype: GradDropState(jnp.zeros((), jnp.int32)),
        weighted=False,
        shared=shared,
        axis_name=axis_name,
    )
