"""A network of a few numbers and three tasks that need none: the train step of any method compiles in no time."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from helpers.batches import make_batch

from mtlflax import tasks


class PointNet(nn.Module):
    """Two layers for all and one for each task, pixel by pixel and without BatchNorm."""

    heads: Mapping[str, int]

    def setup(self):
        self.encoder_first = nn.Dense(6)
        self.encoder_last = nn.Dense(5)
        for task, channels in self.heads.items():
            setattr(self, f"decoder_{task}", nn.Dense(channels))

    def __call__(self, images, train=False):
        return {task: self.decode(self.encode(images), task) for task in self.heads}

    def encode(self, images, train=False):
        return nn.tanh(self.encoder_last(nn.tanh(self.encoder_first(images))))

    def decode(self, features, task, train=False, *, size=None):
        return getattr(self, f"decoder_{task}")(features)

    @nn.nowrap
    def shared(self, path):
        return path.startswith("encoder")

    @nn.nowrap
    def last_shared(self, path):
        return path.startswith("encoder_last")


def color_task(channel):
    """To tell one color of the image upside down, in the frames that have labels of it."""

    def loss(prediction, batch, axis_name):
        labelled = batch["labelled"][:, channel].astype(jnp.float32)
        error = (prediction[..., 0] - batch["image"][:, ::-1, :, channel] / 255.0) ** 2
        sums = jnp.sum(jnp.mean(error, axis=(1, 2)) * labelled), jnp.sum(labelled)
        total, count = sums if axis_name is None else jax.lax.psum(sums, axis_name)
        return total / jnp.maximum(count, 1) * 3.0**channel

    def valid(batch):
        return batch["labelled"][:, channel]

    rest = dict.fromkeys(("sums", "metrics", "picture", "truth", "colors"), lambda *_: {})
    return tasks.Task(f"color{channel}", ("labelled",), 1, lambda x: x, loss, valid, **rest)


POINT_TASKS = tuple(color_task(i) for i in range(3))
POINT_NET = PointNet(FrozenDict({task.name: 1 for task in POINT_TASKS}))
SIZE = (4, 8)


def point_batch(seed, *, absent=(), count=8):
    """A batch in which every frame has all labels, but for those of absent tasks."""
    labelled = np.ones((count, 3), bool)
    labelled[:, list(absent)] = False
    return make_batch(seed, count, SIZE) | {"labelled": labelled}
