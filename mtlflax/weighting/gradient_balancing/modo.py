"""MoDo: multi-objective gradient with double sampling."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.gradient_balancing.double_sampling import stepping


@spec.gradient_balancing(samples=2)
def modo(
    num_tasks: int,
    *,
    gamma: float = 0.1,
    rho: float = 0.1,
    independent: bool = True,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Take one projected step of the weights per update, along a product of two independent samples of the gradients.

    Formula:
        λ ← Π(λ − γ (J J'ᵀ λ + ρ λ)),    d = Σ_k λ_k g_k

        from λ = 1/K, Π being the projection onto the simplex. See `double_sampling` for J and J'. J J'ᵀ is not
        normalized, so γ has to suit the size of the gradients.

    References:
        Chen et al. 2023, "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
        Conflict-Avoidance", equation 2.9 of the JMLR version; official code, LibMTL, TorchJD.

    Differences from other implementations:
        In the paper g is the mean of the two batches' gradients, in the official code their sum, in LibMTL that of a
        third batch.

    Degenerate inputs:
        With zero gradients only ρ acts, which moves λ to 1/K.

    Args:
        gamma: γ; 0.1 in the official code and TorchJD, 1e-3 in LibMTL.
        rho: ρ, pulls λ to 1/K.
        independent: whether `update` uses `independent` gradients; False: the direction's own, biased.

    Raises:
        ValueError: a γ that is not positive, a negative ρ; from `update`, another number of `independent` gradients
            than 2.

    >>> t = modo(2, gamma=0.01)
    >>> d, state = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in state.weights], [round(float(x), 4) for x in d]
    ([0.55, 0.45], [0.5, 1.0, 1.0])
    """
    options.positive("modo", gamma=gamma)
    options.not_negative("modo", rho=rho)

    def move(matrix: jax.Array, scale: jax.Array, point: jax.Array) -> tuple[jax.Array, jax.Array]:
        slope = gamma * (solvers.dot(matrix, point) * scale + rho * point)
        # Steps beyond the other side of the simplex change nothing, but infinity would.
        point = solvers.project(point - jnp.clip(slope, -1e30, 1e30))
        return point, point

    return stepping(move, num_tasks=num_tasks, independent=independent, shared=shared, axis_name=axis_name)
