"""The equation of Nash-MTL and FairGrad."""

import jax
import jax.numpy as jnp

from mtlflax.weighting.solvers.newton import FRACTION, outer, reach, solve


def fair(norms: jax.Array, cosines: jax.Array, alpha: float) -> jax.Array:
    """The x > 0 with G x = x^(−1/α), G = J Jᵀ.

    It is the minimizer of ½ xᵀGx − Σ_k x_k^p / p with p = 1 − 1/α, or of ½ xᵀGx − Σ_k log x_k where α = 1. Newton's
    method in relative steps dx/x finds it, from the multiple of the answer for orthogonal gradients that fits best.

    x [K] is 0 for a zero gradient. Where gradients have a positive combination that is 0 there is no solution: x is
    then large, about ε^(−½) times the answer for orthogonal gradients, along that combination.

    >>> [round(float(value), 3) for value in fair(jnp.array([1.0, 2.0]), jnp.eye(2), 1.0)]
    [1.0, 0.5]
    """
    eps = jnp.finfo(norms.dtype).eps
    positive = norms > 0
    largest = jnp.where(jnp.any(positive), jnp.max(norms), 1)
    lengths = jnp.where(positive, norms / largest, 1)
    matrix = jnp.where(jnp.eye(norms.shape[0], dtype=bool), 1, cosines)
    # In y = x ‖g‖^(2α/(1+α)), which is 1 for orthogonal gradients: D C D y = D² y^(−1/α).
    gains = jnp.maximum(lengths, eps**2) ** ((1 - alpha) / (1 + alpha))
    matrix = matrix * outer(gains, gains)
    power = 1 - 1 / alpha

    def newton(_: int, y: jax.Array) -> jax.Array:
        terms = matrix * outer(y, y)
        wanted = gains**2 * y**power
        missing = wanted - jnp.sum(terms, axis=1)
        step = solve(terms + jnp.diag(wanted / alpha), missing[:, None])[:, 0]
        length = jnp.minimum(1, FRACTION * reach(jnp.ones_like(y), step))
        return y * (1 + length * step)

    total = jnp.sum(gains**2)
    start = (total / jnp.maximum(jnp.sum(matrix), eps * total)) ** (1 / (2 - power))
    y = jax.lax.fori_loop(0, 24, newton, jnp.full_like(norms, start))
    exponent = -2 * alpha / (1 + alpha)
    return jnp.where(positive, y * lengths**exponent * largest**exponent, 0)
