"""The pure per-device train and evaluation steps.

Both run on one device's share of the batch and reduce over the axis `parallel.AXIS`, gradients and sums explicitly and
before they are used: one device with a batch of 8 and four with 2 each compute the same update.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax

from mtlflax import weighting
from mtlflax.models import pretrained
from mtlflax.models.network import Network
from mtlflax.tasks import Batch, Task
from mtlflax.training import gradients, parallel, trunk
from mtlflax.training.gradients import Method, init_method
from mtlflax.training.parallel import AXIS

# ImageNet's channel means and deviations, RGB in 0..1, as in the training of torchvision's and timm's encoders.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class WeightingState(NamedTuple):
    """What the weighting keeps from step to step."""

    method: Any  # the method's own state
    # float32 [K], the losses of the last complete step's batch after that step; 0 for methods that do not need them.
    losses_after: jax.Array


class TrainState(flax.struct.PyTreeNode):
    """The whole state of a run, apart from its configuration; replicated on every device."""

    step: jax.Array  # int32 [], updates so far
    params: Any  # float32, the network's parameters
    batch_stats: Any  # float32, BatchNorm's running statistics
    optimizer: Any  # the state of the optax optimizer
    weighting: WeightingState


def normalize(images: jax.Array) -> jax.Array:
    """Normalize images, uint8 [B, H, W, 3] RGB, to float32 with zero mean and unit deviation over ImageNet."""
    mean, std = (jnp.array(v, jnp.float32).reshape(1, 1, 1, 3) for v in (_MEAN, _STD))
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def init_state(
    model: Network,
    optimizer: optax.GradientTransformation,
    method: Method,
    *,
    num_tasks: int,
    size: tuple[int, int],
    seed: int,
    encoder: Any = None,
) -> TrainState:
    """Return the state at step 0, a pure function of the seed and the encoder; to be jitted with the wanted shardings.

    `size` is (H, W) of the images. `encoder` holds pretrained variables for the paths `model.encoders`; None: from
    scratch.
    """
    images = jnp.zeros((1, *size, 3))
    variables = model.init(jax.random.key(seed), images, train=False)
    if encoder is not None:
        variables = pretrained.put(variables, encoder, getattr(model, "encoders", ()))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        optimizer=optimizer.init(variables["params"]),
        weighting=WeightingState(init_method(method, model, variables, images, num_tasks), jnp.zeros(num_tasks)),
    )


def make_train_step(
    model: Network,
    tasks: Sequence[Task],
    optimizer: optax.GradientTransformation,
    method: Method,
    prepare: Callable[[Batch], Batch] = lambda batch: batch,
    reduce_dtype: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Make the train step: one forward pass and, as the weighting needs, one backward pass or task gradients.

    The model is made with `axis_name=parallel.AXIS`, so that BatchNorm's statistics are those of the global batch.
    `prepare` is done to each device's share of the batch first: augmentation, if it is not done by the loader.
    `reduce_dtype` is what gradients are sent in between devices; None: as they are, float32.

    Returns:
        `step(state, batch)` → the new state and, all replicated: `losses` float32 [K], 0 for tasks without labels in
        the global batch; `present` bool [K], the others; `gradient_norm` float32 [], of what the optimizer gets;
        `weights` [K] if the method has weights; `task_gradient_norms` [K] and `cosines` [K, K] for a gradient
        balancing. Without labels for some task, the last three are those of the last complete step.
    """
    mean = functools.partial(parallel.mean_over_devices, dtype=reduce_dtype)
    pull_back = gradients.make_backward(model, tasks, method, mean)
    task_losses = trunk.make_losses(model, tasks)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = prepare(batch)
        images = normalize(batch["image"])
        kept, losses_after = state.weighting
        taken = pull_back(state.params, state.batch_stats, kept, images, batch, losses_after)
        updates, optimizer_state = optimizer.update(taken.params, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)

        present = jnp.any(taken.present, axis=1)
        metrics = {
            "losses": jnp.where(present, taken.losses, 0),
            "present": present,
            "gradient_norm": optax.tree.norm(taken.params),
        }
        if (weights := weighting.weights(taken.state)) is not None:
            metrics["weights"] = weights
        if (geometry := weighting.geometry(taken.state)) is not None:
            metrics |= {"task_gradient_norms": geometry.norms, "cosines": geometry.cosines}
        if "losses_after" in method.spec.needs:
            after, _ = task_losses(params, taken.batch_stats, images, batch)
            losses_after = jnp.where(jnp.all(taken.present), after, losses_after)
        state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=taken.batch_stats,
            optimizer=optimizer_state,
            weighting=WeightingState(taken.state, losses_after),
        )
        return state, metrics

    return train_step


def enlarge(values: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize the prediction for one frame, float32 [h, w, channels], to (H, W): bilinearly, aligned by its outer edges.

    Values keep their unit: a disparity is in pixels at full width, whatever the size of the map.
    """
    return jax.image.resize(values, (*size, values.shape[-1]), "linear", antialias=False)


def make_evaluation_step(
    model: Network,
    tasks: Sequence[Task],
    *,
    size: tuple[int, int] | None = None,
    export: tuple[Task, tuple[int, int]] | None = None,
) -> Callable[[TrainState, Batch], tuple[tuple[jax.Array, dict[str, Any]], dict[str, jax.Array], jax.Array | None]]:
    """Make the evaluation step.

    Args:
        model: the network.
        tasks: to be scored.
        size: (H, W) of the batch's truth, to which predictions are enlarged; None: it has the image's size.
        export: a task whose predictions are wanted at the size (H, W), in the form of the truth; None: nobody's are.

    Returns:
        `step(state, batch)` → the numbers of the frames of the global batch, as in `batch["frame"]`, int32 [B], and per
        task the sums of each, [B, ...] (replicated); per task the device's own predictions for pictures, at the image's
        size (sharded along the batch); and what is exported, [B, H, W, ...], or None (sharded).
    """

    def score(frame: tuple[dict[str, jax.Array], dict[str, jax.Array]]) -> Any:
        """At full size, the sums of one frame and what is exported of it."""
        predictions, fields = frame
        assert size is not None
        image = jnp.round(enlarge(fields["image"].astype(jnp.float32), size)).astype(fields["image"].dtype)
        row = {name: x[None] for name, x in (fields | {"image": image}).items()}
        sums = {task.name: task.sums(enlarge(predictions[task.name], size)[None], row) for task in tasks}
        return sums, exported(predictions)

    def exported(predictions: dict[str, jax.Array]) -> jax.Array | None:
        if export is None:
            return None
        task, full = export
        return task.picture(enlarge(predictions[task.name], full)[None])[0]

    def evaluation_step(
        state: TrainState, batch: Batch
    ) -> tuple[tuple[jax.Array, dict[str, Any]], dict[str, jax.Array], jax.Array | None]:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        outputs: Any = model.apply(variables, normalize(batch["image"]), train=False)
        predictions = {task.name: task.activation(outputs[task.name]) for task in tasks}
        # Frame by frame: a batch of predictions for 19 classes at Cityscapes' full size would be gigabytes.
        if size is None:
            sums = {task.name: _sums_of_frames(task, predictions[task.name], batch) for task in tasks}
            maps = jax.lax.map(exported, predictions) if export else None
        else:
            sums, maps = jax.lax.map(score, (predictions, dict(batch)))
        pictures = {task.name: task.picture(predictions[task.name]) for task in tasks}
        return jax.lax.all_gather((batch["frame"], sums), AXIS, tiled=True), pictures, maps

    return evaluation_step


def _sums_of_frames(task: Task, predictions: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """A task's sums, of each frame for itself: [B, ...]."""

    def of_one(prediction: jax.Array, frame: Batch) -> dict[str, jax.Array]:
        return task.sums(prediction[None], {name: x[None] for name, x in frame.items()})

    return jax.vmap(of_one)(predictions, dict(batch))
