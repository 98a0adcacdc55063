"""How the tasks' gradients lie to each other, whatever method trains: a second program beside the train step.

A mean cosine near 0.7, as of segmentation and depth on Cityscapes, says that no weighting method will help much; near
0.45, as with a third task there, that some will (arXiv 2505.10347).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtlflax import weighting
from mtlflax.models.network import Network
from mtlflax.tasks import Batch, Task
from mtlflax.training import gradients
from mtlflax.training.step import TrainState, normalize


def make_diagnostics(
    model: Network, tasks: Sequence[Task], prepare: Callable[[Batch], Batch] = lambda batch: batch
) -> Callable[[TrainState, Batch], dict[str, jax.Array]]:
    """Make a function that measures the task gradients of the shared parameters, per device, as the train step is.

    It costs one backward pass of the trunk per task, and changes nothing. `prepare` is as in `make_train_step`.

    Returns:
        `measure(state, batch)` → `norms` float32 [K], `cosines` float32 [K, K], and `present` bool [K]: without labels
        for some task in the global batch the first two are 0. All are replicated.
    """
    method = gradients.make_method("sum", model, num_tasks=len(tasks))
    backward = gradients.make_backward(model, tasks, method)

    def measure(state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        batch = prepare(batch)
        images = normalize(batch["image"])
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        kept = gradients.init_method(method, model, variables, images, len(tasks))
        taken = backward(state.params, state.batch_stats, kept, images, batch, jnp.zeros(len(tasks)))
        measured = weighting.geometry(taken.state)
        assert measured is not None
        present = jnp.any(taken.present, axis=1)
        return {"norms": measured.norms, "cosines": measured.cosines, "present": present}

    return measure


def figures(names: Sequence[str], measured: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Name what `make_diagnostics` has measured; {} if some task had no labels.

    Returns `diagnostics/norm/<task>`, `diagnostics/cosine/<task>/<task>`, `diagnostics/norm_ratio`, the longest over
    the shortest gradient, and `diagnostics/condition`, the condition number of the [K, n] matrix of task gradients.
    """
    if not measured["present"].all():
        return {}
    norms, cosines = (np.asarray(measured[key], np.float64) for key in ("norms", "cosines"))
    result: dict[str, Any] = {f"diagnostics/norm/{name}": float(x) for name, x in zip(names, norms, strict=True)}
    for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
        result[f"diagnostics/cosine/{a}/{b}"] = float(cosines[i, j])
    relative = norms / (norms.max() or 1.0)
    eigenvalues = np.linalg.eigvalsh(relative[:, None] * relative[None, :] * cosines)
    with np.errstate(divide="ignore", invalid="ignore"):
        result["diagnostics/norm_ratio"] = float(norms.max() / norms.min())
        result["diagnostics/condition"] = float(np.sqrt(eigenvalues.max() / max(eigenvalues.min(), 0.0)))
    return result
