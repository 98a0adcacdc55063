"""Gradient surgery: each task's gradient is corrected by the others, one after the other, and the corrected are summed.

A corrected gradient stays a combination of the original ones, so its coefficients and the angles between the originals
are all that is kept. Coefficients are those of *unit* gradients, which tasks of any scale leave well conditioned.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import options
from mtlflax.weighting.solvers import dot, varying_as
from mtlflax.weighting.stacked import Geometry, from_geometry


class PCGradState(NamedTuple):
    """State of `pcgrad`.

    Attributes:
        step: int32 [], updates so far.
    """

    step: jax.Array


class GradVacState(NamedTuple):
    """State of `gradvac`.

    Attributes:
        step: int32 [], updates so far.
        targets: [K, K], ρ̂, the cosine that the corrected gradient i should have with gradient j; 0 at the start.
    """

    step: jax.Array
    targets: jax.Array


def pcgrad(
    num_tasks: int,
    *,
    seed: int = 0,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Projecting conflicting gradients: what points against another task's gradient is taken out.

    For each task i, over the other tasks j in random order: where the corrected gradient has g_i·g_j < 0,

        g_i ← g_i − (g_i·g_j)/‖g_j‖² g_j,

    g_j being the original one; d = Σ_i g_i (Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1;
    LibMTL, TorchJD). The PyTorch port has the mean as an option. Without conflict d is the sum. At K = 2 nothing is
    random; for K > 2 every task draws its own order in every update.

    A zero gradient changes nothing; opposite ones give 0 at K = 2, equal ones their sum. Lengths more than 1e19 times
    apart (in float32) are taken to be 1e19 times apart.

    Args:
        num_tasks: K.
        seed: of the orders; the same seed draws the same ones.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    >>> t = pcgrad(2)
    >>> d, _ = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), t.init(jnp.zeros(3)))
    >>> [round(float(x), 4) for x in d]
    [0.5848, 3.8012, 3.8012]
    """

    def weigh(geometry: Geometry, losses: jax.Array | None, state: PCGradState) -> tuple[jax.Array, PCGradState]:
        del losses
        tasks = jnp.arange(num_tasks)

        def correct(coefficients: jax.Array, others: jax.Array) -> tuple[jax.Array, None]:
            along = jnp.sum(geometry.cosines[others] * coefficients, axis=1)
            conflict = jnp.where(others == tasks, 0, jnp.minimum(along, 0))
            return coefficients.at[tasks, others].add(-conflict), None

        start = varying_as(jnp.eye(num_tasks, dtype=geometry.norms.dtype), geometry.cosines)
        coefficients, _ = jax.lax.scan(correct, start, _orders(seed, state.step, num_tasks))
        return _weights(coefficients, geometry), PCGradState(state.step + 1)

    return from_geometry(
        weigh,
        num_tasks=num_tasks,
        inner=lambda dtype: PCGradState(jnp.zeros((), jnp.int32)),
        shared=shared,
        axis_name=axis_name,
    )


def gradvac(
    num_tasks: int,
    *,
    beta: float = 0.5,
    only_corrected: bool = False,
    seed: int = 0,
    shared: Callable[[str], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gradient vaccine: each gradient is turned until its cosine with every other is what it usually is.

    For each task i, over the other tasks j in random order, with ρ the cosine of the corrected gradient i and the
    original g_j: where ρ < ρ̂_ij,

        g_i ← g_i + ‖g_i‖ (ρ̂_ij √(1−ρ²) − ρ √(1−ρ̂_ij²)) / (‖g_j‖ √(1−ρ̂_ij²)) g_j,

    then ρ̂_ij ← (1−β) ρ̂_ij + β ρ; d = Σ_i g_i (Wang et al. 2021, "Gradient Vaccine: Investigating and Improving
    Multi-task Optimization in Massively Multilingual Models", algorithm 1). ρ̂ starts at 0, so that the first update is
    that of `pcgrad` with the same seed. ρ̂ moves with every pair here, as in the algorithm and TorchJD;
    there are versions of LibMTL, and other ports, where it moves only with pairs that are corrected. One ρ̂ for all
    shared parameters; LibMTL can have one for each layer.

    A zero gradient counts as orthogonal to all and is not added. What is asked of a gradient whose ρ̂ has come close to
    1 is a correction close to infinite: √(1−ρ̂²) counts as no less than the root of the precision, 3.5e-4 in float32
    (elsewhere 1e-8 is added to the denominator). Lengths as in `pcgrad`.

    Args:
        num_tasks: K.
        beta: β in 0..1, how fast ρ̂ follows; 0.5 in LibMTL and TorchJD, 0.01 in the paper.
        only_corrected: whether ρ̂ moves only with pairs that are corrected.
        seed: of the orders; the same seed draws the same ones.
        shared: as in `weighting.get`.
        axis_name: as in `weighting.get`.

    Raises:
        ValueError: β outside 0..1.

    >>> t = gradvac(2)
    >>> state = t.init(jnp.zeros(3))
    >>> for _ in range(2):
    ...     d, state = t.update(jnp.array([[-4.0, 1, 1], [6, 1, 1]]), state)
    ...     [round(float(x), 4) for x in d]
    [0.5848, 3.8012, 3.8012]
    [1.0065, 3.2644, 3.2644]
    """
    options.part("gradvac", beta=beta)

    def weigh(geometry: Geometry, losses: jax.Array | None, state: GradVacState) -> tuple[jax.Array, GradVacState]:
        del losses
        tasks = jnp.arange(num_tasks)

        def correct(carry: tuple[jax.Array, jax.Array], others: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            coefficients, targets = carry
            along = jnp.sum(geometry.cosines[others] * coefficients, axis=1)
            mixed = dot(coefficients, geometry.cosines)
            length = jnp.sqrt(jnp.maximum(jnp.sum(mixed * coefficients, axis=1), 0))
            cosine = jnp.clip(along / jnp.where(length > 0, length, 1), -1, 1)
            target = targets[tasks, others]
            target_sine = jnp.sqrt(jnp.maximum(1 - target**2, jnp.finfo(target.dtype).eps))
            missing = length * (target * jnp.sqrt(1 - cosine**2) - cosine * target_sine) / target_sine
            corrected = (cosine < target) & (others != tasks) & (geometry.norms[others] > 0)
            coefficients = coefficients.at[tasks, others].add(jnp.where(corrected, missing, 0))
            moves = corrected if only_corrected else others != tasks
            targets = targets.at[tasks, others].set(jnp.where(moves, (1 - beta) * target + beta * cosine, target))
            return (coefficients, targets), None

        start = varying_as(jnp.eye(num_tasks, dtype=geometry.norms.dtype), geometry.cosines)
        targets = varying_as(state.targets, geometry.cosines)
        orders = _orders(seed, state.step, num_tasks)
        (coefficients, targets), _ = jax.lax.scan(correct, (start, targets), orders)
        return _weights(coefficients, geometry), GradVacState(state.step + 1, targets)

    return from_geometry(
        weigh,
        num_tasks=num_tasks,
        inner=lambda dtype: GradVacState(jnp.zeros((), jnp.int32), jnp.zeros((num_tasks, num_tasks), dtype)),
        shared=shared,
        axis_name=axis_name,
    )


def _orders(seed: int, step: jax.Array, num_tasks: int) -> jax.Array:
    """[turn, K], the task that each one is corrected by in that turn: an order of its own for each, itself among it."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    draws = jax.random.uniform(key, (num_tasks, num_tasks), jnp.float32)
    return jnp.argsort(draws, axis=1).T


def _weights(coefficients: jax.Array, geometry: Geometry) -> jax.Array:
    """The weights [K] of the gradients, given the coefficients [K, K] of each corrected g_i / ‖g_i‖ in unit ones."""
    return jnp.sum(coefficients * geometry.ratios, axis=0)
