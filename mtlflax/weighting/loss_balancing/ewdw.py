"""EWDW: equal weights, then dynamic weights."""

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.dwa import dwa


@spec.loss_balancing()
def ewdw(
    temperature: float = 2.0, steps_per_epoch: int | None = None, window: int | None = None
) -> spec.Transformation:
    """Average weights dynamically after two epochs of equal weights: `dwa`, options and all, under the paper's name.

    Source: Mahyoub et al. 2023, "Semantic Segmentation and Depth Estimation of Urban Road Scene Images using Multi-Task
        Networks", which names this combination and does not define it: this is our reading.
    """
    return dwa(temperature, steps_per_epoch, window)
