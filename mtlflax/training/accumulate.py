"""Gradient accumulation: the memory of a small batch, the gradient of a large one."""

from collections.abc import Mapping
from typing import Any, cast

import jax

from mtlflax.models.network import Network


def in_parts(model: Network, parts: int) -> Network:
    """Return a network that, in training, sees a batch in equal parts, one after another.

    Only what it gives for each part is kept: the losses are those of the whole batch, and in the backward pass each
    part is computed again. So a step needs the memory of one part, and of all outputs (of a trunk that is pulled back
    by itself: of all features), and takes one more forward pass. Losses and gradients are those of the whole batch,
    whatever the loss and the weighting, but for BatchNorm, whose statistics are each part's own. The parts are every
    n-th frame, and so the same however frames are spread over devices.
    """
    return model if parts == 1 else cast(Network, _InParts(model, parts))


class _InParts:
    """The network, with another `apply`."""

    def __init__(self, model: Network, parts: int) -> None:
        self._model, self._parts = model, parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def apply(self, variables: Mapping[str, Any], inputs: Any, *args: Any, **keywords: Any) -> Any:
        """As `flax.linen.Module.apply`; `inputs` are arrays with a leading axis B, a multiple of the parts."""
        if not keywords.get("train"):
            return self._model.apply(variables, inputs, *args, **keywords)
        others = {name: values for name, values in variables.items() if name != "batch_stats"}

        @jax.checkpoint
        def of_part(others: Any, stats: Any, part: Any) -> tuple[Any, Any]:
            outputs, updated = self._model.apply({**others, "batch_stats": stats}, part, *args, **keywords)
            return outputs, updated.get("batch_stats", {})

        def scanned(stats: Any, part: Any) -> tuple[Any, Any]:
            outputs, stats = of_part(others, stats, part)
            return stats, outputs

        stats, outputs = jax.lax.scan(scanned, variables["batch_stats"], jax.tree.map(self._divide, inputs))
        return jax.tree.map(_join, outputs), {"batch_stats": stats}

    def _divide(self, x: jax.Array) -> jax.Array:
        """[B, ...] → [parts, B / parts, ...]."""
        return x.reshape(-1, self._parts, *x.shape[1:]).swapaxes(0, 1)


def _join(x: jax.Array) -> jax.Array:
    """The inverse."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
