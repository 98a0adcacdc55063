"""Aligned-MTL: gradients made orthogonal."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtlflax.weighting import options, solvers, spec
from mtlflax.weighting.stacked import Geometry, Predicate, from_geometry


@spec.gradient_balancing()
def aligned_mtl(
    num_tasks: int,
    *,
    preference: Sequence[float] | None = None,
    scale: str = "min",
    shared: Predicate | None = None,
    axis_name: str | None = None,
) -> spec.Transformation:
    """Make the gradients orthogonal and of one length, with as little change as possible, and add them.

    With G = J Jᵀ = V Λ Vᵀ and σ its smallest eigenvalue, d = Jᵀ a,   a = √σ V Λ^(−½) Vᵀ p.

    Source: Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning", algorithm 1.
    Differences: p is 1/K in TorchJD, ones in LibMTL, which makes d K times as long. The official code and TorchJD also
        have the median eigenvalue (the lower one of two) and the mean. They leave out eigenvalues of G, and d jumps
        when one gradient is some 2000 times (in float32) as long as another; here those of the cosines are left out,
        and the error of d grows slowly, to ε times the longest over the shortest.
    Degenerate inputs: eigenvalues of the cosines that count as 0 (see `solvers.pseudo_inverse`) are left out, and σ is
        one of the rest: as a gradient comes to point where the others do, d first shrinks, then jumps. Gradients all in
        one line, equal and opposite ones included, give Jᵀ p; a zero gradient adds nothing, and all zero give 0.

    Args:
        preference: p, a number for each task; None: 1/K each.
        scale: which eigenvalue: 'min', 'median' or 'rmse' (the root of their mean).
    """
    options.choice("aligned_mtl", ("min", "median", "rmse"), scale=scale)
    wanted = options.preference("aligned_mtl", preference, num_tasks)

    def weigh(geometry: Geometry, losses: jax.Array | None, inner: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        # G = (N Q √S)(N Q √S)ᵀ with the cosines Q S Qᵀ and the lengths N: the singular values of this root of G
        # still distinguish lengths whose squares, as eigenvalues of G, would be lost in rounding.
        norms = geometry.relative.norms
        squares, vectors, kept = solvers.eigen(geometry.cosines)
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
        return solvers.dot(basis, factors * solvers.dot(basis.T, jnp.array(wanted, norms.dtype))), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)
