"""Loss balancing: transformations of the losses' cotangents [K]. One backward pass, as for a plain sum.

    weights, state = t.update(cotangents, state, losses)      # all [K]; t.init(losses)

One factory per method, in a file of its name. Some methods need more than the losses, as their `spec.needs` says, and
take it by name in `update`:

* `gradient_norms` [K]: of the task gradients, before any weighting.
* `task_gradients`: a pytree of [K, ...] over the shared parameters.
* `losses_after` [K]: the losses of the batch of the last complete update at the parameters after that update; not
  looked at in the first update, where anything finite will do.

Computed and kept in float32, or float64 if `init` gets float64 losses.
"""

from mtlflax.weighting import spec
from mtlflax.weighting.loss_balancing.adamt import adamt
from mtlflax.weighting.loss_balancing.constant import constant
from mtlflax.weighting.loss_balancing.dwa import dwa
from mtlflax.weighting.loss_balancing.equal import equal
from mtlflax.weighting.loss_balancing.ewdw import ewdw
from mtlflax.weighting.loss_balancing.excess_mtl import excess_mtl
from mtlflax.weighting.loss_balancing.famo import famo
from mtlflax.weighting.loss_balancing.geometric import geometric
from mtlflax.weighting.loss_balancing.gradnorm import gradnorm
from mtlflax.weighting.loss_balancing.gwgl import gwgl
from mtlflax.weighting.loss_balancing.imtl_l import imtl_l
from mtlflax.weighting.loss_balancing.random import random
from mtlflax.weighting.loss_balancing.scale_invariant import scale_invariant
from mtlflax.weighting.loss_balancing.stch import stch
from mtlflax.weighting.loss_balancing.uncertainty import uncertainty

METHODS = spec.table(globals())


def needs(name: str) -> frozenset[str]:
    """Return what the `update` of a built-in method needs by name."""
    return METHODS[name].spec.needs
