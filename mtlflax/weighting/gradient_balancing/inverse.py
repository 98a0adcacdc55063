"""Methods that invert the Gramian, or take its root: IMTL-G, Aligned-MTL and ConFIG.

By eigenvectors of the gradients' cosines. Eigenvalues below 32 K ε times the largest, ε being the precision (7.6e-6 of
it at K = 2 in float32), are taken for rounding of 0 and left out, as a pseudo-inverse does. Lengths have no part in it:
a short gradient counts as long as it is not 0.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options
from mtlflax.weighting.solvers import dot
from mtlflax.weighting.stacked import Geometry, from_geometry

_SCALES = ("min", "median", "rmse")


def imtl_g(
    num_tasks: int, *, shared: Callable[[str], bool] | None = None, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Impartial multi-task learning, gradient balance: d has the same projection on the gradient of every task.

    d = Σ_k α_k g_k with Σ_k α_k = 1 and d·g_1/‖g_1‖ = … = d·g_K/‖g_K‖ (Liu et al. 2021, "Towards Impartial Multi-task
    Learning", IMTL-G; LibMTL, TorchJD, which agree). With C the cosines of the gradients,
    α ∝ (C⁻¹ 1)_k / ‖g_k‖.

    For K > 2 the sum of C⁻¹ 1 over the lengths can be negative; the common projection is negative then, and d ascends.
    That is the method's, not this code's. Where it comes close to 0, d grows beyond bounds and digits are lost.

    Where gradients depend on each other C⁻¹ is the pseudo-inverse (in TorchJD that of the Gramian), and projections are
    as nearly equal as can be: two opposite gradients give 0, with a third one d is orthogonal to the two. A zero
    gradient has weight 0 and the others are balanced; equal gradients give that gradient.

    Args:
        num_tasks: K.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    >>> t = imtl_g(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.0767, 1.0, 1.0]
    """

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        solution, _ = _solve_ones(geometry.cosines)
        known = geometry.norms > 0
        shortest = jnp.min(jnp.where(known, geometry.norms, jnp.inf))
        shares = solution * jnp.where(known, shortest / jnp.where(known, geometry.norms, 1), 0)
        total = jnp.sum(shares)
        vanishes = jnp.abs(total) <= _cutoff(shares) * jnp.sum(jnp.abs(shares))
        return jnp.where(vanishes, 0, shares / jnp.where(vanishes, 1, total)), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)


def aligned_mtl(
    num_tasks: int,
    *,
    preference: Sequence[float] | None = None,
    scale: str = "min",
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Aligned-MTL: the gradients are made orthogonal and of one length, as little changed as can be, and summed.

    With G = J Jᵀ = V Λ Vᵀ,

        a = √σ V Λ^(−½) Vᵀ p,    d = Jᵀ a

    (Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning", algorithm 1; LibMTL,
    TorchJD, the official code). p is 1/K in TorchJD, ones in LibMTL, which makes d K times as long. σ is the
    smallest eigenvalue; the official code and TorchJD also have the median (the lower one of two) and the mean.

    Eigenvalues, of the cosines, that count as 0 (see this module) are left out, and σ is of the rest: as a gradient
    comes to point where the others do, d first shrinks, then jumps. Elsewhere eigenvalues of G are left out, and d
    jumps where one gradient is some 2000 times (in float32) as long as another; here the error of d grows slowly, to ε
    times the longest over the shortest. Gradients all in one line, equal and opposite ones included, give Jᵀ p; a zero
    gradient adds nothing, and all zero give 0.

    Args:
        num_tasks: K.
        preference: p, a number a task; None: 1/K each.
        scale: 'min', 'median' or 'rmse' (the root of the mean).
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: another number of preferences than of tasks, or an unknown scale.

    >>> t = aligned_mtl(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.2133, 0.9673, 0.9673]
    """
    options.choice("aligned_mtl", _SCALES, scale=scale)
    wanted = options.preference("aligned_mtl", preference, num_tasks)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        # G = (N Q √S)(N Q √S)ᵀ with the cosines Q S Qᵀ and the lengths N: singular values of this root of G still tell
        # lengths apart whose squares, as eigenvalues of G, would be lost in rounding.
        longest = jnp.max(geometry.norms)
        norms = geometry.norms / jnp.where(longest > 0, longest, 1)
        squares, vectors, kept = _eigen(geometry.cosines)
        root = norms[:, None] * vectors * jnp.sqrt(jnp.where(kept, squares, 0))[None, :]
        basis, lengths, _ = jnp.linalg.svd(root)
        rank = jnp.sum(kept)
        kept = (jnp.arange(num_tasks) < rank) & (lengths > 0)
        if scale == "min":
            length = lengths[rank - 1]
        elif scale == "median":
            length = lengths[rank // 2]
        else:
            length = jnp.sqrt(jnp.sum(jnp.where(kept, lengths**2, 0)) / jnp.maximum(rank, 1))
        factors = jnp.where(kept, length / jnp.where(kept, lengths, 1), 0)
        return dot(basis, factors * dot(basis.T, jnp.array(wanted, norms.dtype))), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)


def config(
    num_tasks: int, *, shared: Callable[[str], bool] | None = None, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """ConFIG: the direction at the same angle to all gradients, as long as they project on it together.

    With U the unit gradients as rows, C = U Uᵀ and b = U⁺ 1 = Uᵀ C⁺ 1,

        d = (Σ_k g_k·b̂) b̂,    b̂ = b/‖b‖

    (Liu et al. 2025, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", equation 2; TorchJD
    and the official code, which can also weigh the ones). It conflicts with no task.

    Eigenvalues of C that count as 0 (see this module) are left out; the others take the singular values of U itself
    and so leave out fewer. A zero gradient is as if it were not there; two opposite gradients give 0, with a third one
    d is orthogonal to the two; equal gradients give their sum. Lengths more than 1e19 times apart (in float32) are
    taken to be 1e19 times apart.

    Args:
        num_tasks: K.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    >>> t = config(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.1588, 2.0706, 2.0706]
    """

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        solution, angles = _solve_ones(geometry.cosines)  # b's coefficients in unit gradients, and b·g_k/‖g_k‖
        square = jnp.sum(solution * angles)  # ‖b‖²
        projections = dot(geometry.ratios.T, angles)  # Σ_j g_j·b, over ‖g_k‖
        return jnp.where(square > 0, projections * solution / jnp.where(square > 0, square, 1), 0), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)


def _cutoff(array: jax.Array) -> float:
    """What relative size [K] or [K, K] numbers of this precision may have and be rounding of 0."""
    return 32 * array.shape[0] * float(jnp.finfo(array.dtype).eps)


def _eigen(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenvalues [K], ascending, eigenvectors in columns [K, K], and which eigenvalues do not count as 0 [K]."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors, values > _cutoff(matrix) * jnp.maximum(values[-1], 0)


def _solve_ones(cosines: jax.Array) -> tuple[jax.Array, jax.Array]:
    """C⁺ 1 and C C⁺ 1, which is 1 where C has full rank; zeros where 1 is orthogonal to all that C reaches."""
    values, vectors, kept = _eigen(cosines)
    parts = jnp.where(kept, jnp.sum(vectors, axis=0), 0)
    reached = jnp.sum(parts**2) > cosines.shape[0] * _cutoff(cosines) ** 2
    parts = jnp.where(reached, parts, 0)
    return dot(vectors, parts / jnp.where(kept, values, 1)), dot(vectors, parts)
