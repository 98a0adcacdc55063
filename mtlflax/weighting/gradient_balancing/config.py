"""ConFIG: the conflict-free direction."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import solvers, spec
from mtlflax.weighting.stacked import Geometry, from_geometry


@spec.gradient_balancing()
def config(
    num_tasks: int, *, shared: Callable[[str], bool] | None = None, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Find the direction at the same angle to all gradients, as long as the sum of their projections on it.

    Formula:
        With U the unit gradients as rows, C = U Uᵀ and b = U⁺ 1 = Uᵀ C⁺ 1,

            d = (Σ_k g_k·b̂) b̂,    b̂ = b/‖b‖.

        It conflicts with no task.

    References:
        Liu et al. 2025, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", equation 2.

    Differences from other implementations:
        TorchJD and the official code, which can also weigh the ones, take the singular values of U itself, and so count
        fewer of them as 0.

    Degenerate inputs:
        A zero gradient has no effect; two opposite gradients give 0, with a third one d is orthogonal to the two; equal
        gradients give their sum. Lengths more than 1e19 times apart (in float32) count as 1e19 times apart.

    >>> t = config(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.1588, 2.0706, 2.0706]
    """

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        solution, angles = solvers.solve_ones(geometry.cosines)  # b's coefficients in unit gradients, and b·g_k/‖g_k‖
        square = jnp.sum(solution * angles)  # ‖b‖²
        projections = solvers.dot(geometry.ratios.T, angles)  # Σ_j g_j·b, over ‖g_k‖
        return jnp.where(square > 0, projections * solution / jnp.where(square > 0, square, 1), 0), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
