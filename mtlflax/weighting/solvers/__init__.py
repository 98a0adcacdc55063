"""Small convex problems over K tasks, solved inside a compiled step: a fixed number of K×K Newton steps each.

What the gradient balancings that optimize something share. The arithmetic is in the arguments' dtype, and float32
suffices: every variable is scaled by the length of its own gradient, so that lengths 1e8 apart cost no digits, and the
last steps solve for the tasks that matter exactly. With a Gramian of condition 1e3 the direction is right to 1e-4 in
float32. The work does not depend on the data: all run under jit, vmap, scan and shard_map. `norms` [K] and `cosines`
[K, K] are those of a `Geometry`.
"""

from mtlflax.weighting.solvers.conflict import conflict_averse
from mtlflax.weighting.solvers.fair import fair
from mtlflax.weighting.solvers.newton import dot, varying_as
from mtlflax.weighting.solvers.pseudo_inverse import cutoff, eigen, solve_ones
from mtlflax.weighting.solvers.quadratic import bounded_qp, min_norm, nonnegative_qp, project
