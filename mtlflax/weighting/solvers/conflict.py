"""The problem of CAGrad, a quadratic and a norm over the simplex."""

import jax
import jax.numpy as jnp

from mtlflax.weighting.solvers.newton import dot, minimize, outer


def conflict_averse(norms: jax.Array, cosines: jax.Array, alpha: float) -> jax.Array:
    """The v with g_0 + Σ_k v_k g_k = argmax over ‖d − g_0‖ ≤ c of min_k g_k·d, where g_0 = 1/K Σ g_k, c = α‖g_0‖.

    v = c w / ‖g_w‖, g_w = Σ w_k g_k, where w minimizes F(w) = g_w·g_0 + c‖g_w‖ over the simplex. ‖g_w‖ is the minimum
    over t of ‖g_w‖²/2t + t/2, smooth and convex in w and t together, which makes it a problem in K + 1 non-negative
    variables. F has degree 1, so that Σ w = 1 can become a term ½ (Σ w − 1)² with another factor on w, where F* is
    between 0 and ½: a multiple of Σ w is added that makes F positive, and all is measured in twice a bound on F*. Each
    w_k is scaled by the larger of that and its gradient's length.

    v [K] is 0 where ‖g_w‖ is 0 to within rounding: gradients whose hull contains 0, all zero, or g_0 = 0. Zero
    gradients are left out of the minimum over k, which they would hold at 0 whatever d.

    >>> v = conflict_averse(jnp.array([1.0, 2.0]), jnp.eye(2), 0.5)
    >>> [round(0.5 + float(value), 3) for value in v]
    [1.059, 0.5]
    """
    dtype, size = norms.dtype, norms.shape[0]
    eps = jnp.finfo(dtype).eps
    lengths = norms / jnp.where(jnp.any(norms > 0), jnp.max(norms), 1)
    matters = (lengths > 0) | jnp.all(lengths == 0)
    products = dot(cosines, lengths) / size
    mean = jnp.sqrt(jnp.maximum(dot(lengths, products) / size, 0))
    unit = jnp.where(mean > 0, mean, 1) * (1 + alpha)  # F is measured in ‖g_0‖ + c
    radius = alpha * mean / unit
    slopes = lengths * products / unit
    slopes -= jnp.min(jnp.where(matters, slopes, jnp.inf))
    bound = jnp.min(jnp.where(matters, slopes + radius * lengths, jnp.inf))  # F* ≤ bound
    reference = jnp.where(bound > 0, 2 * bound, 1)

    scale = jnp.maximum(lengths, reference)
    slopes = jnp.where(matters, slopes / scale, 1)
    ratio = jnp.where(matters, reference / scale, 0)
    lengths = lengths / scale
    gramian = cosines * outer(lengths, lengths)

    def derivatives(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        w, t = x[:size], jnp.maximum(x[size], eps)
        image = dot(gramian, w) / t
        square = dot(w, image) / t
        gradient = slopes + radius * image + ratio * (dot(ratio, w) - 1)
        mixed = -radius / t * image[:, None]
        upper = radius / t * gramian + outer(ratio, ratio)
        hessian = jnp.block([[upper, mixed], [mixed.T, (radius / t * square)[None, None]]])
        return jnp.append(gradient, radius / 2 * (1 - square)), hessian

    def norm(w: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.maximum(dot(w, dot(gramian, w)), 0))

    def improve(x: jax.Array) -> jax.Array:
        # A t that has shrunk below its best value makes the gradient steep and the steps short.
        return jnp.append(x[:size], jnp.maximum(x[size], norm(x[:size])))

    w = minimize(derivatives, size + 1, dtype, iterations=24, improve=improve)[:size]
    length = norm(w)
    known = length > jnp.sqrt(eps) * dot(w, lengths)
    return jnp.where(known, alpha * mean / jnp.where(known, length, 1), 0) * w / scale
