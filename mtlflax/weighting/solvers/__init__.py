"""Small convex problems over K tasks, solved inside a compiled step: a fixed number of K×K Newton steps each.

What the gradient balancings that optimise something have in common. The arithmetic is in the arguments' dtype, and
float32 suffices: every variable is scaled by its own gradient's length, so that lengths 1e8 apart cost no digits, and
the last steps solve for the tasks that matter exactly. With a Gramian of condition 1e3 the direction is right to 1e-4
in float32. How long a solver takes does not depend on the data: all work under jit, vmap, scan and shard_map.
"""

from mtlflax.weighting.solvers.conflict import conflict_averse
from mtlflax.weighting.solvers.fair import fair
from mtlflax.weighting.solvers.newton import dot, varying_as
from mtlflax.weighting.solvers.quadratic import bounded_qp, min_norm, nonnegative_qp

__all__ = ["bounded_qp", "conflict_averse", "dot", "fair", "min_norm", "nonnegative_qp", "varying_as"]
