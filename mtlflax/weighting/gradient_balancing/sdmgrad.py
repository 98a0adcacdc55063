"""SDMGrad: the shortest combination near a preferred one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.gradient_balancing.double_sampling import stepping
from mtlflax.weighting.stacked import Predicate


@spec.gradient_balancing(samples=2)
def sdmgrad(
    num_tasks: int,
    *,
    lam: float = 0.3,
    learning_rate: float = 0.5,
    momentum: float = 0.5,
    steps: int = 20,
    preference: Sequence[float] | None = None,
    independent: bool = True,
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> spec.Transformation:
    """Seek the shortest combination of the gradients near a preferred one, from two independent samples of them.

    With A = J J'ᵀ / (mean_k √A_kk)², w takes steps of SGD with momentum on ½ ‖g_w + λ g_p‖², each projected,

        w ← Π(w − η v),    v ← m v + A (w + λ p),    d = (g_w + λ g_p) / (1 + λ),

    g_w = Σ_k w_k g_k, p = 1/K; w continues from the last update. J, J' and `independent`: see `double_sampling`.

    Source: Xiao, Ban & Ji 2023, "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic
        Algorithms", algorithm 1 with the normalization of section 6.1; official code, LibMTL, TorchJD.
    Differences: the official code gives K d and clips its length at 1. η is 10 in the official code and TorchJD, 5 in
        LibMTL, which is too large for w to come to rest: it mostly ends in a corner of the simplex, and in 2 to 8 of
        100 random problems (K = 2 to 5) the last digits of the gradients decide in which. It settles if η times the
        largest eigenvalue of A, which is between 1 and K², is below 2 (1 + m); so η = 0.5 here.
    Degenerate inputs: if no A_kk is positive beyond rounding (independent batches that disagree, zero gradients), w
        stays. Elsewhere 1e-8 is added to the divisor instead, which stops w if gradients are shorter than 1e-4.

    Args:
        lam: λ, how near to the preferred combination; 0.3 in the official scripts (0.6 in its class).
        learning_rate: η; see above.
        momentum: m, at least 0 and below 1.
        steps: of w in an update.
        preference: p, a number for each task; None: 1/K each.
    """
    options.not_negative("sdmgrad", lam=lam)
    options.positive("sdmgrad", learning_rate=learning_rate)
    if not 0 <= momentum < 1:
        raise ValueError(f"sdmgrad: momentum must be at least 0 and below 1, not {momentum}")
    options.count("sdmgrad", steps=steps)
    wanted = options.preference("sdmgrad", preference, num_tasks)

    def move(matrix: jax.Array, scale: jax.Array, point: jax.Array) -> tuple[jax.Array, jax.Array]:
        del scale  # the normalization removes it
        size = jnp.mean(jnp.sqrt(jnp.maximum(jnp.diagonal(matrix), 0))) ** 2
        known = size > jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(matrix))
        matrix = matrix / jnp.where(known, size, 1)
        preferred = jnp.array(wanted, matrix.dtype)

        def step(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            point, velocity = carry
            velocity = momentum * velocity + solvers.dot(matrix, point + lam * preferred)
            return solvers.project(point - learning_rate * velocity), velocity

        point = solvers.varying_as(point, matrix)
        moved, _ = jax.lax.fori_loop(0, steps, step, (point, jnp.zeros_like(point)))
        point = jnp.where(known, moved, point)
        return point, (point + lam * preferred) / (1 + lam)

    return stepping(move, num_tasks=num_tasks, independent=independent, shared=shared, axis_name=axis_name)
