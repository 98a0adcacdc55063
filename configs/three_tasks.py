"""Three tasks: segmentation, depth, and surface normals derived from the depth. An example of a task of one's own.

    python -m mtlflax.main --config=configs/three_tasks.py
    python -m mtlflax.main --config=configs/three_tasks.py:quick
    python -m mtlflax.main --config=configs/three_tasks.py:mtan,densenet121

With `:quick` 2m50 on 2 cores of a Xeon, on the embedded data set: mIoU 0.385, depth RMSE 0.0301
(best constant 0.1078), normals 19.2° off on average.

`normals` below is the whole task: `config.tasks` names it as "configs.three_tasks:normals", so that evaluation and
prediction find it too.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import common
from mtlflax import models, tasks
from mtlflax.data.source import Depth, Field
from mtlflax.tasks import pictures

FOCAL = 2265 / 2048  # of Cityscapes' cameras, in widths of the image
FARTHEST, EDGE = 80.0, 0.1  # metres; the relative step of depth from pixel to pixel that is no surface any more


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config of `--config=configs/three_tasks.py:ARG`."""
    args = common.parse(arg, *models.MODELS)
    config = common.get_config({"name": "equal"}, args, model=common.network(args))
    config.tasks = ("segmentation", "depth", "configs.three_tasks:normals")
    # Zoom repeats pixels of depth, between which there is no slope, and moves the camera's axis off the center.
    config.data.augment.scales = (1.0,)
    return config


def normals(config: Any, fields: Mapping[str, Field]) -> tasks.Task:
    """Return surface normals, towards the camera: x to the right, y down, z ahead; the loss is 1 − cosine."""
    del config
    depth = fields["depth"]
    if not isinstance(depth, Depth):
        raise ValueError(f"the task normals needs a depth, not {depth}")

    def truth(batch: Any) -> tuple[jax.Array, jax.Array]:
        """Unit normals [B, H, W, 3] and where there are any, from each pixel's neighbors to the right and below."""
        focal_baseline = batch["focal_baseline"][:, None, None, None]
        metres = jnp.asarray(depth.unit.to_metres(jnp.asarray(batch["depth"]), focal_baseline))
        metres = jnp.where(depth.measured(batch["depth"]) & (metres < FARTHEST), metres, 0)
        _, height, width, _ = metres.shape
        v, u = jnp.mgrid[:height, :width]
        rays = jnp.stack([(u - width / 2) / (FOCAL * width), (v - height / 2) / (FOCAL * width), jnp.ones_like(u)], -1)
        points = metres * rays[None]
        here, right, below = points[:, :-1, :-1], points[:, :-1, 1:], points[:, 1:, :-1]
        normal = jnp.cross(below - here, right - here)
        normal /= jnp.maximum(jnp.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
        steps = jnp.maximum(jnp.abs(right - here), jnp.abs(below - here))[..., 2]
        known = (here[..., 2] > 0) & (steps < EDGE * here[..., 2])
        margin = ((0, 0), (0, 1), (0, 1))
        return jnp.pad(jnp.where(known[..., None], normal, 0), (*margin, (0, 0))), jnp.pad(known, margin)

    def cosine(prediction: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        normal, known = truth(batch)
        return jnp.sum(prediction * normal, axis=-1), known

    def loss(prediction: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        cosines, known = cosine(prediction, batch)
        return 1 - cosines, known

    def angle(prediction: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        cosines, known = cosine(prediction, batch)
        return jnp.degrees(jnp.arccos(jnp.clip(cosines, -1, 1))), known

    def errors(normal: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        cosines = np.sum(normal * prediction, axis=-1)
        return pictures.errors(np.arccos(np.clip(cosines, -1, 1)) / (np.pi / 4), np.any(normal != 0, axis=-1))

    return tasks.dense(
        "normals",
        3,
        fields=("depth", "focal_baseline"),
        loss=loss,
        metrics={"mean_angle": angle},
        activation=lambda x: x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-4),
        truth=lambda batch: np.asarray(truth(batch)[0]),
        colors=lambda normal: (127.5 * (normal + 1) * np.any(normal != 0, axis=-1, keepdims=True)).astype(np.uint8),
        errors=errors,
    )
