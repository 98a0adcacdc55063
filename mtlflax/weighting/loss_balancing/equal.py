"""Equal weights."""

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.constant import constant


@spec.loss_balancing()
def equal() -> spec.Transformation:
    """Give every task the weight 1: the plain sum of the losses."""
    return constant()
