"""Scale-invariant linear scalarization."""

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing import logarithms


@spec.loss_balancing()
def scale_invariant() -> spec.Transformation:
    """Minimize the sum of the logarithms of the losses (SI): total = Σ_k log L_k,   w_k = 1 / L_k.

    Source: the baseline "SI" of Navon et al. 2022, "Multi-Task Learning as a Bargaining Game".
    Degenerate inputs: a loss of 0 or below has no logarithm: its weight is 0. (The code of nash-mtl gives NaN.)
    """
    return logarithms.stateless(logarithms.reciprocal)
