"""Stop a run at a signal: all of its processes at the same step, wherever the signal arrived."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mtlflax.run import signals
from mtlflax.run.signals import Stopped
from mtlflax.training import parallel

_LAG = 2  # polls after which a vote is read: by then the step that it follows has been waited for anyway


class Vote:
    """Asks the processes of a run, again and again, whether any of them has been told to stop.

    Each call of `check` starts a sum over the processes and reads that of two calls before. So all read the same
    answers in the same order, and nobody waits: there is no other agreement, and none is needed. A single process looks
    at its own signal, without a sum. Signals must be deferred (`signals.deferred`).
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._sum = jax.jit(jnp.sum, out_shardings=parallel.replicated(mesh))
        self._under_way: deque[jax.Array] = deque()

    def check(self) -> None:
        """Raise `Stopped` if the run should stop; to be called equally often by all processes, at the same places."""
        here = signals.pending()
        if jax.process_count() == 1:
            asked = bool(here)
        else:
            mine = np.full(jax.local_device_count(), bool(here), np.int32)
            self._under_way.append(self._sum(parallel.shard_batch(mine, self._mesh)))
            asked = len(self._under_way) > _LAG and bool(np.asarray(self._under_way.popleft()))
        if asked:
            raise Stopped(here or "a signal to another process")
