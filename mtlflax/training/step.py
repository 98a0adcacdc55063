"""The pure per-device train and evaluation steps.

Both run on one device's share of the batch and reduce over the axis `parallel.AXIS`, gradients and sums explicitly and
before anything looks at them: one device with a batch of 8 and four with 2 each compute the same update.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mtlflax import weighting
from mtlflax.models import pretrained
from mtlflax.tasks import Task
from mtlflax.training import gradients, trunk
from mtlflax.training.method import Method, init_method
from mtlflax.training.parallel import AXIS

# ImageNet's channel means and deviations, RGB in 0..1: what torchvision's and timm's encoders were trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class TrainState(flax.struct.PyTreeNode):
    """All that a run is, apart from its configuration; replicated on every device.

    Attributes:
        step: int32 [], updates so far.
        params: float32, the network's parameters.
        batch_stats: float32, BatchNorm's running statistics.
        optimizer: the optax optimiser's state.
        weighting: the loss weighting's state.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    optimizer: Any
    weighting: Any


def normalise(images: jax.Array) -> jax.Array:
    """uint8 [B, H, W, 3], RGB → float32, zero mean and unit deviation over ImageNet."""
    mean, std = (jnp.array(v, jnp.float32).reshape(1, 1, 1, 3) for v in (_MEAN, _STD))
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def init_state(
    model: Any,
    optimizer: optax.GradientTransformation,
    method: Method,
    *,
    num_tasks: int,
    size: tuple[int, int],
    seed: int,
    encoder: Any = None,
) -> TrainState:
    """The state at step 0; a pure function of the seed and the encoder, to be jitted with the shardings wanted.

    Args:
        model: the network.
        optimizer: of the parameters.
        method: the weighting.
        num_tasks: K.
        size: (H, W) of the images.
        seed: of the parameters.
        encoder: pretrained variables, which replace those at the paths `model.encoders`; None = from scratch.
    """
    images = jnp.zeros((1, *size, 3))
    variables = model.init(jax.random.key(seed), images, train=False)
    if encoder is not None:
        variables = pretrained.put(variables, encoder, model.encoders)
    weighting_state = init_method(method, model, variables, images, num_tasks)
    if "losses_after" in method.needs:
        weighting_state = {"method": weighting_state, "losses_after": jnp.zeros(num_tasks)}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        optimizer=optimizer.init(variables["params"]),
        weighting=weighting_state,
    )


def make_train_step(
    model: nn.Module,
    tasks: Sequence[Task],
    optimizer: optax.GradientTransformation,
    method: Method,
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The train step: one forward and, as the weighting asks, one backward pass or task gradients.

    Args:
        model: made with `axis_name=parallel.AXIS`, so that BatchNorm's statistics are those of the global batch.
        tasks: in the order of the losses [K].
        optimizer: of the parameters.
        method: the weighting.

    Returns:
        `step(state, batch)` → the new state and, all replicated: `losses` float32 [K]; `gradient_norm` float32 [], that
        of what the optimiser gets; `weights` [K] where the method has weights; `task_gradient_norms` [K] and `cosines`
        [K, K] where it is a gradient balancing.
    """
    pull_back = gradients.make_backward(model, tasks, method)
    task_losses = trunk.make_losses(model, tasks)
    looks_back = "losses_after" in method.needs

    def train_step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        images = normalise(batch["image"])
        if looks_back:
            own, extra = state.weighting["method"], {"losses_after": state.weighting["losses_after"]}
        else:
            own, extra = state.weighting, {}
        losses, gradient, own, batch_stats = pull_back(state.params, state.batch_stats, own, images, batch, **extra)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)

        metrics = {"losses": losses, "gradient_norm": optax.tree.norm(gradient)}
        if (weights := weighting.weights(own)) is not None:
            metrics["weights"] = weights
        if (geometry := weighting.geometry(own)) is not None:
            metrics |= {"task_gradient_norms": geometry.norms, "cosines": geometry.cosines}
        if looks_back:
            losses_after, _ = task_losses(params, batch_stats, images, batch)
            own = {"method": own, "losses_after": losses_after}
        state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            optimizer=optimizer_state,
            weighting=own,
        )
        return state, metrics

    return train_step


def make_evaluation_step(
    model: nn.Module, tasks: Sequence[Task]
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[dict[str, Any], dict[str, jax.Array]]]:
    """The evaluation step.

    Returns:
        `step(state, batch)` → per task the sums over the global batch (replicated), and per task the device's own
        predictions for pictures (sharded along the batch).
    """

    def evaluation_step(
        state: TrainState, batch: Mapping[str, jax.Array]
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        outputs: Any = model.apply(variables, normalise(batch["image"]), train=False)
        predictions = {task.name: task.activation(outputs[task.name]) for task in tasks}
        sums = {task.name: task.sums(predictions[task.name], batch) for task in tasks}
        pictures = {task.name: task.picture(predictions[task.name]) for task in tasks}
        return jax.lax.psum(sums, AXIS), pictures

    return evaluation_step
