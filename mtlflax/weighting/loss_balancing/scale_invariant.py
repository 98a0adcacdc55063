"""Scale-invariant linear scalarization."""

import optax

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing import logarithms


@spec.loss_balancing()
def scale_invariant() -> optax.GradientTransformationExtraArgs:
    """Minimize the sum of the logarithms of the losses (SI).

    Formula:
        total = Σ_k log L_k,   w_k = 1 / L_k

    References:
        The baseline "SI" of Navon et al. 2022, "Multi-Task Learning as a Bargaining Game".

    Degenerate inputs:
        A loss of 0 or below has no logarithm: its weight is 0. (The code of nash-mtl gives NaN.)

    >>> import jax.numpy as jnp
    >>> t = scale_invariant()
    >>> weights, _ = t.update(jnp.ones(3), t.init(jnp.zeros(3)), jnp.array([0.5, 4.0, 0.0]))
    >>> weights.tolist()
    [2.0, 0.25, 0.0]
    """
    return logarithms.stateless(logarithms.reciprocal)
