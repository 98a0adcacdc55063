"""From loss space to gradient space: a loss balancing as a linear combination of stacked task gradients."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtlflax.weighting import measures, options, spec, stacked
from mtlflax.weighting import present as absence
from mtlflax.weighting.stacked import Predicate

ByPath = dict[str, Any]  # arrays of parameters by path


@dataclasses.dataclass(frozen=True)
class LossBalancing:
    """A loss-space transformation and the parameters whose gradients it is shown.

    Attributes:
        make: the shared parameters by path → the transformation.
        needs: what its `update` takes beside the losses.
        norms_of: whose gradient norms: "last_shared", "shared", or "own": of each task, over the parameters that are
            not shared. If there are no such parameters, over all.
        shared: as in `weighting.get`, like the rest.
    """

    make: Callable[[ByPath], optax.GradientTransformation]
    needs: frozenset[str] = frozenset()
    norms_of: str = "shared"
    shared: Predicate | None = None
    last_shared: Predicate | None = None
    axis_name: str | None = None

    @property
    def looks_at_gradients(self) -> bool:
        """Whether it needs task gradients in any form."""
        return bool(self.needs & {"gradient_norms", "task_gradients"})

    def init(self, losses: jax.Array, parameters: ByPath) -> Any:
        """Return the state at the start, given losses of the right shape and dtype and all parameters."""
        return self.make(self._shared(parameters)).init(losses)

    def weigh(
        self, state: Any, losses: jax.Array, gradients: ByPath, cotangents: jax.Array, **extra_args: Any
    ) -> tuple[jax.Array, Any]:
        """Return the weights [K] and the new state.

        `gradients`, [K, ...] of all parameters, are not looked at unless `looks_at_gradients`; `cotangents` are ones
        [K] in the dtype of the weights, and `extra_args` those of `update`, `present` included.
        """
        shared = self._shared(gradients)
        if "gradient_norms" in self.needs and "gradient_norms" not in extra_args:
            extra_args["gradient_norms"] = measures.norms(self._measured(gradients, shared), self.axis_name)
        if "task_gradients" in self.needs:
            extra_args.setdefault("task_gradients", shared)
        shapes = {path: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for path, leaf in shared.items()}
        transform = optax.with_extra_args_support(self.make(shapes))
        return transform.update(cotangents, state, losses, **extra_args)

    def _shared(self, tree: ByPath) -> ByPath:
        if not self.looks_at_gradients:
            return {}
        chosen = {path: leaf for path, leaf in tree.items() if self.shared is None or self.shared(path)}
        if not chosen:
            raise ValueError("no parameter is shared: the predicate `shared` is false for every path")
        return chosen

    def _measured(self, tree: ByPath, shared: ByPath) -> Iterable[Any]:
        if self.norms_of == "own":
            return [leaf for path, leaf in tree.items() if path not in shared] or tree.values()
        if self.norms_of == "last_shared" and self.last_shared is not None:
            chosen = [leaf for path, leaf in tree.items() if self.last_shared(path)]
            if not chosen:
                raise ValueError("no parameter is measured: the predicate `last_shared` is false for every path")
            return chosen
        return shared.values()


def from_factory(
    factory: spec.Factory,
    *,
    shared: Predicate | None = None,
    last_shared: Predicate | None = None,
    axis_name: str | None = None,
    **chosen: Any,
) -> LossBalancing:
    """Return the loss balancing of a factory and its options, `norms_of` included; arguments as in `weighting.get`."""
    declared = spec.of(factory)
    spec.check_options(factory, chosen)
    spec.check_keeps(factory, "parameters", axis_name)
    norms_of = chosen.pop("norms_of", declared.norms_of) or "shared"

    made = factory(**chosen)  # checks the options

    def make(parameters: ByPath) -> optax.GradientTransformation:
        return factory(**chosen, parameters=parameters) if declared.keeps_gradients else made

    return LossBalancing(make, declared.needs, norms_of, shared, last_shared, axis_name)


def linear_combination(
    balancing: optax.GradientTransformation | LossBalancing,
    *,
    num_tasks: int,
    needs: Iterable[str] = (),
    shared: Predicate | None = None,
) -> spec.Transformation:
    """Lift a loss-space transformation to stacked task gradients: Σ_k w_k g_k over every parameter.

    The sum is taken in float32 (float64 where a parameter is) and returned in the gradients' own dtype. Of what the
    transformation needs, `gradient_norms` and `task_gradients` are made from the stacked gradients unless `update` is
    given them; `losses_after` is an argument of `update`. Other extra arguments are passed on. The state is that of the
    loss-space transformation.

    Args:
        balancing: a transformation in loss space, such as a chain of several; or one with all that it is shown.
        num_tasks: K.
        needs: what the transformation needs, as its `spec.needs`; for a plain transformation.
        shared: whether all tasks share a parameter, by its path; for a plain transformation.

    Raises:
        ValueError: K below 1; from `update`, no losses, or losses or gradients that are not of K tasks; if gradients
            are looked at, no parameter is shared.

    >>> from mtlflax.weighting import loss_balancing
    >>> chain = optax.chain(loss_balancing.geometric(), loss_balancing.adamt())
    >>> t = linear_combination(chain, num_tasks=2, needs=loss_balancing.adamt.spec.needs)
    >>> gradient, _ = t.update(jnp.eye(2), t.init(jnp.zeros(2)), losses=jnp.array([1.0, 4.0]))
    >>> gradient.tolist()  # geometric weights (1, 0.25) times equal ones
    [0.5, 0.125]
    """
    options.count("weighting", num_tasks=num_tasks)
    if isinstance(balancing, LossBalancing):
        lifted = balancing
    else:
        made = absence.in_loss_space(balancing)
        lifted = LossBalancing(lambda parameters: made, frozenset(needs), shared=shared)

    def init(params: optax.Params) -> Any:
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
        return lifted.init(jnp.zeros(num_tasks, dtype), _by_path(params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        losses: jax.Array | None = None,
        losses_after: jax.Array | None = None,
        present: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        if losses is None:
            raise ValueError("update needs losses=..., one for each task")
        losses = stacked.task_losses(losses, num_tasks)
        if losses_after is not None:
            losses_after = stacked.task_losses(losses_after, num_tasks)
        stacked.check_tasks(updates, num_tasks)
        updates, losses = absence.clear(present, (updates, losses), num_tasks)
        leaves, structure = jax.tree.flatten(updates)
        cotangents = jnp.ones(num_tasks, jnp.result_type(jnp.float32, *leaves))
        extra_args |= {"losses_after": losses_after, "present": present}
        weights, state = lifted.weigh(state, losses, _by_path(updates), cotangents, **extra_args)
        totals = measures.combine(weights, leaves)
        totals = [total.astype(leaf.dtype) for total, leaf in zip(totals, leaves, strict=True)]
        return jax.tree.unflatten(structure, totals), state

    return optax.GradientTransformationExtraArgs(init, update)


def _by_path(tree: Any) -> ByPath:
    return {stacked.path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}
