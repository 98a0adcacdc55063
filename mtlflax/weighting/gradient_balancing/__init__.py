"""Gradient balancing: transformations of stacked task gradients [K, ...] into one direction [...].

    direction, state = t.update(task_grads, state, params, losses=losses)      # t.init(params)

One factory per method, in a file of its name: `name(num_tasks, *, shared=None, axis_name=None, **options)`. A method
acts on the shared parameters (all, without a predicate); the others get their own task's gradient. `update` also takes
`present`, bool [K]: which tasks have labels in this step. See `mtlflax.weighting.present`.
"""

from mtlflax.weighting import spec
from mtlflax.weighting.gradient_balancing.aligned_mtl import aligned_mtl
from mtlflax.weighting.gradient_balancing.cagrad import cagrad
from mtlflax.weighting.gradient_balancing.config import config
from mtlflax.weighting.gradient_balancing.db_mtl import db_mtl
from mtlflax.weighting.gradient_balancing.dualproj import dualproj
from mtlflax.weighting.gradient_balancing.fairgrad import fairgrad
from mtlflax.weighting.gradient_balancing.graddrop import graddrop
from mtlflax.weighting.gradient_balancing.gradvac import gradvac
from mtlflax.weighting.gradient_balancing.imtl_g import imtl_g
from mtlflax.weighting.gradient_balancing.mean import mean
from mtlflax.weighting.gradient_balancing.mgda import mgda
from mtlflax.weighting.gradient_balancing.moco import moco
from mtlflax.weighting.gradient_balancing.modo import modo
from mtlflax.weighting.gradient_balancing.nash_mtl import nash_mtl
from mtlflax.weighting.gradient_balancing.pcgrad import pcgrad
from mtlflax.weighting.gradient_balancing.sdmgrad import sdmgrad
from mtlflax.weighting.gradient_balancing.sum import sum
from mtlflax.weighting.gradient_balancing.upgrad import upgrad

METHODS = spec.table(globals())
