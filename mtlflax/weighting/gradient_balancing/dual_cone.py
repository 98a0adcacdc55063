"""The Gramian of the methods that project onto the dual cone."""

import jax
import jax.numpy as jnp

from mtlflax.weighting.stacked import Geometry


def regularized(geometry: Geometry, regularization: float, norm_eps: float) -> jax.Array:
    """Return J Jᵀ over its trace, or 0 if that is below `norm_eps`, plus a multiple of the identity."""
    longest = jnp.max(geometry.norms)
    relative = Geometry(geometry.norms / jnp.where(longest > 0, longest, 1), geometry.cosines).gramian
    trace = jnp.trace(relative)
    matters = longest * jnp.sqrt(trace) >= norm_eps**0.5
    relative = jnp.where(matters, relative / jnp.where(trace > 0, trace, 1), 0)
    return relative + regularization * jnp.eye(len(relative), dtype=relative.dtype)
