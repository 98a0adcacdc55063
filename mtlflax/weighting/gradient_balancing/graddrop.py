"""GradDrop: gradient sign dropout."""

import jax
import jax.numpy as jnp

from mtlflax.weighting import options, spec
from mtlflax.weighting.stacked import CountState, Geometry, Predicate, counting, from_gradients


@spec.gradient_balancing()
def graddrop(
    num_tasks: int, *, leak: float = 0.0, seed: int = 0, shared: Predicate | None = None, axis_name: str | None = None
) -> spec.Transformation:
    """In each coordinate pass gradients of one sign only, drawn by how pure the sign is; there are no weights.

    With U uniform in [0, 1), drawn for every coordinate and update,

        P = ½ (1 + Σ_k g_k / Σ_k │g_k│),    d = Σ_k g_k where P > U: those g_k > 0, elsewhere those g_k < 0.

    Source: Chen et al. 2020, "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout",
        algorithm 1 with f the identity; TorchJD.
    Differences: the paper, and LibMTL, apply it to the features' gradients, times the features' signs and summed over a
        batch; TorchJD and this to any gradients. TorchJD can have a leak for each task. With `axis_name` every device
        draws for its own coordinates, so the draws depend on the number of devices.
    Degenerate inputs: coordinates whose gradients agree in sign pass whole; a coordinate of zeros stays 0.

    Args:
        leak: the part of the dropped gradients that passes nevertheless.
        seed: of U.
    """
    options.part("graddrop", leak=leak)

    def direct(
        leaves: list[jax.Array], geometry: Geometry, losses: jax.Array | None, state: CountState
    ) -> tuple[list[jax.Array], None, CountState]:
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
        return out, None, CountState(state.step + 1)

    return from_gradients(
        direct, num_tasks=num_tasks, inner=counting, weighted=False, shared=shared, axis_name=axis_name
    )
