"""SDMGrad and MoDo: weights that take stochastic steps towards the shortest combination of the gradients.

Both step along J J'ᵀ w. An unbiased estimate of it needs the gradients J and J' of two independent batches: the product
of one batch's gradients with themselves has their noise on its diagonal. So `update` takes `independent=(J, J')`, two
more pytrees of stacked gradients, beside those that make up the direction. In one batch of training they are the
gradients of two micro-batches, and the direction's those of a third (LibMTL), or the mean of the two (MoDo's paper).
Without `independent` the direction's own gradients are taken for both: biased towards tasks of little noise, and exact
where gradients have none.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options, stacked
from mtlflax.weighting.gradient_balancing import simplex
from mtlflax.weighting.solvers import dot, varying_as
from mtlflax.weighting.stacked import Geometry, from_gradients


class SimplexState(NamedTuple):
    """State of `sdmgrad` and `modo`.

    Attributes:
        point: [K], a point of the simplex, from which the next update goes on; 1/K at the start.
    """

    point: jax.Array


def sdmgrad(
    num_tasks: int,
    *,
    lam: float = 0.3,
    learning_rate: float = 0.5,
    momentum: float = 0.5,
    steps: int = 20,
    preference: Sequence[float] | None = None,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Stochastic direction-oriented multi-objective gradient descent: the shortest combination, near a preferred one.

    With A = J J'ᵀ / (mean_k √A_kk)², w takes steps of SGD with momentum on ½ ‖g_w + λ g_p‖² and is projected onto the
    simplex after each,

        w ← Π(w − η v),    v ← m v + A (w + λ p),    d = (g_w + λ g_p) / (1 + λ)

    (Xiao, Ban & Ji 2023, "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms",
    algorithm 1 with the normalisation of section 6.1; official code, LibMTL, TorchJD). g_w = Σ_k w_k g_k, p = 1/K; w
    goes on from the last update's. The official code gives K d and clips its length at 1.

    η is 10 in the official code and TorchJD, 5 in LibMTL. That is too large for w to come to rest: it mostly ends in a
    corner of the simplex, and in 2 to 8 of 100 random problems (K = 2 to 5) the last digits of the gradients decide in
    which. It settles where η times the largest eigenvalue of A, which is between 1 and K², is below 2 (1 + m); so
    η = 0.5 here.

    Where no A_kk is positive beyond rounding (independent batches that disagree, zero gradients), w stays. Elsewhere
    1e-8 is added to the divisor instead, which stops w where gradients are shorter than 1e-4.

    Args:
        num_tasks: K.
        lam: λ, how near to the preferred combination; 0.3 in the official scripts (0.6 in its class).
        learning_rate: η; see above.
        momentum: m in 0..1.
        steps: of w in an update.
        preference: p, a number a task; None: 1/K each.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: an option out of range; another number of preferences than of tasks; from `update`, another number
            of `independent` gradients than 2.

    >>> t = sdmgrad(2)
    >>> g = jnp.array([[-4.0, 1, 1], [6, 1, 1]])
    >>> d, state = t.update(g, t.init(jnp.zeros(3)))
    >>> biased = [round(float(x), 4) for x in state.weights]
    >>> noise = jnp.array([[0.5, 0, 0], [0, -0.5, 0]])
    >>> d, state = t.update(g, t.init(jnp.zeros(3)), independent=(g + noise, g - noise))
    >>> biased, [round(float(x), 4) for x in state.weights]
    ([0.6, 0.4], [0.5653, 0.4347])
    """
    options.not_negative("sdmgrad", lam=lam)
    options.positive("sdmgrad", learning_rate=learning_rate)
    if not 0 <= momentum < 1:
        raise ValueError(f"sdmgrad: momentum must be at least 0 and below 1, not {momentum}")
    options.count("sdmgrad", steps=steps)
    wanted = options.preference("sdmgrad", preference, num_tasks)

    def move(matrix: jax.Array, scale: jax.Array, point: jax.Array) -> tuple[jax.Array, jax.Array]:
        del scale  # which the normalisation takes out
        size = jnp.mean(jnp.sqrt(jnp.maximum(jnp.diagonal(matrix), 0))) ** 2
        known = size > jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(matrix))
        matrix = matrix / jnp.where(known, size, 1)
        preferred = jnp.array(wanted, matrix.dtype)

        def step(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            point, velocity = carry
            velocity = momentum * velocity + dot(matrix, point + lam * preferred)
            return simplex.project(point - learning_rate * velocity), velocity

        point = varying_as(point, matrix)
        moved, _ = jax.lax.fori_loop(0, steps, step, (point, jnp.zeros_like(point)))
        point = jnp.where(known, moved, point)
        return point, (point + lam * preferred) / (1 + lam)

    return _stepping(move, num_tasks, shared, axis_name)


def modo(
    num_tasks: int,
    *,
    gamma: float = 0.1,
    rho: float = 0.1,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multi-objective gradient with double sampling: one projected step of the weights in every update.

        λ ← Π(λ − γ (J J'ᵀ λ + ρ λ)),    d = Σ_k λ_k g_k

    from λ = 1/K, Π being the projection onto the simplex (Chen et al. 2023, "Three-Way Trade-Off in Multi-Objective
    Learning: Optimization, Generalization and Conflict-Avoidance", equation 2.9 of the JMLR version; official code,
    LibMTL, TorchJD). In the paper g is the mean of the two batches' gradients, in the official code their sum, in
    LibMTL that of a third batch.

    J J'ᵀ is as it is, so γ has to suit the size of the gradients. Zero gradients leave ρ alone, which moves λ to 1/K.

    Args:
        num_tasks: K.
        gamma: γ; 0.1 in the official code and TorchJD, 1e-3 in LibMTL.
        rho: ρ, pulls λ to 1/K.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: a γ that is not positive, a negative ρ; from `update`, another number of `independent` gradients
            than 2.

    >>> t = modo(2, gamma=0.01)
    >>> d, state = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in state.weights], [round(float(x), 4) for x in d]
    ([0.55, 0.45], [0.5, 1.0, 1.0])
    """
    options.positive("modo", gamma=gamma)
    options.not_negative("modo", rho=rho)

    def move(matrix: jax.Array, scale: jax.Array, point: jax.Array) -> tuple[jax.Array, jax.Array]:
        slope = gamma * (dot(matrix, point) * scale + rho * point)
        # Further than from one side of the simplex to the other does not matter, but infinity does.
        point = simplex.project(point - jnp.clip(slope, -1e30, 1e30))
        return point, point

    return _stepping(move, num_tasks, shared, axis_name)


# (J J'ᵀ over a scale, the scale, the point) -> (the point, weights [K])
_Move = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def _stepping(
    move: _Move, num_tasks: int, shared: Callable[[str], bool] | None, axis_name: str | None
) -> optax.GradientTransformationExtraArgs:
    """A method whose weights take a step along J J'ᵀ, of `independent` gradients where there are any."""

    def direct(
        leaves: list[jax.Array],
        geometry: Geometry,
        losses: jax.Array | None,
        state: SimplexState,
        independent: list[list[jax.Array]] | None,
    ) -> tuple[list[jax.Array], jax.Array, SimplexState]:
        del losses
        if independent is None:
            longest = jnp.max(geometry.norms)
            relative = Geometry(geometry.norms / jnp.where(longest > 0, longest, 1), geometry.cosines)
            matrix, scale = relative.gramian, _product(longest, longest)
        else:
            matrix, scale = _cross(independent[0], independent[1], axis_name)
        point, weights = move(matrix, scale, state.point)
        return stacked.combine(weights, leaves), weights, SimplexState(point)

    return from_gradients(
        direct,
        num_tasks=num_tasks,
        inner=lambda leaves, dtype: SimplexState(jnp.full(num_tasks, 1 / num_tasks, dtype)),
        samples=2,
        shared=shared,
        axis_name=axis_name,
    )


def _cross(first: list[jax.Array], second: list[jax.Array], axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """J J'ᵀ of two samples of stacked gradients, [K, K], over the product of their largest entries, and that."""

    def scaled(leaves: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
        rows = [leaf.reshape(leaf.shape[0], -1) for leaf in leaves if leaf.size]
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(row)) for row in rows]))
        if axis_name is not None:
            largest = jax.lax.pmax(largest, axis_name)
        return [row / jnp.where(largest > 0, largest, 1) for row in rows], largest

    (rows, largest), (others, largest_other) = scaled(first), scaled(second)
    products = [dot(row, other.T) for row, other in zip(rows, others, strict=True)]
    matrix = jnp.sum(jnp.stack(products), axis=0)
    if axis_name is not None:
        matrix = jax.lax.psum(matrix, axis_name)
    return matrix, _product(largest, largest_other)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of two positive numbers, finite."""
    return jnp.minimum(a * b, jnp.finfo(a.dtype).max)
