"""The geometric loss strategy."""

import jax
import jax.numpy as jnp

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing import logarithms


@spec.loss_balancing()
def geometric() -> spec.Transformation:
    """Minimize the geometric mean of the losses (GLS).

    total = (∏_k L_k)^(1/K),   w_k = total / (K L_k), by logarithms, so that products neither overflow nor vanish.

    Source: Chennupati et al. 2019, "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for
        Multi-Task Learning".
    Differences: LibMTL multiplies first, and reports other weights than those it applies.
    Degenerate inputs: a loss of 0 or below is left out: its weight is 0, and the mean is that of the others. Taken
        literally, a single loss of 0 would stop all tasks.
    """

    def weigh(losses: jax.Array) -> jax.Array:
        positive, logs = logarithms.logs(losses)
        count = jnp.maximum(jnp.sum(positive), 1)
        return logarithms.finite(positive, jnp.exp(jnp.sum(logs) / count - logs) / count)

    return logarithms.stateless(weigh)
