"""What all topologies have in common."""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jax.typing import DTypeLike

LAST_STAGES = ("encoder/layer4_", "encoder/denseblock4/")  # of ResNet and of DenseNet


class Network(nn.Module):
    """Images to a map of logits for each task.

    A topology adds its own attributes, checks them in `check`, and defines `__call__` and `shared`.

    Attributes:
        backbone: a name that `models.encoder` knows.
        heads: task → channels, in the order of the outputs; at least `fewest` tasks.
        remat: whether the backward pass computes what is in the encoders' blocks, and in the larger modules behind
            them, anew: less memory, more time, the same results. On a CPU only the time changes, as XLA is free there
            to compute it early.
        axis_name: mapped axis for synchronised batch statistics.
        dtype: of the computation, e.g. "bfloat16"; parameters, batch statistics, heads and logits are float32.

    Raises:
        ValueError: an attribute's value makes no sense; the message names it.
    """

    backbone: str
    heads: Mapping[str, int]
    remat: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    fewest: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Checks the attributes and makes them hashable, so that models can be static arguments."""
        if not self.heads:
            raise ValueError("heads is empty: give at least one task → channels")
        if wrong := [task for task in self.heads if not (isinstance(task, str) and task and "/" not in task)]:
            raise ValueError(f"heads has a task called {wrong[0]!r}: give names without a slash")
        check_whole({f"heads[{task!r}]": channels for task, channels in self.heads.items()})
        if len(self.heads) < self.fewest:
            raise ValueError(f"{type(self).__name__} is for two tasks or more, not for {', '.join(self.heads)} alone")
        self.check()
        self.heads = FrozenDict(self.heads)
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), list):
                setattr(self, field.name, tuple(getattr(self, field.name)))
        super().__post_init__()

    @nn.nowrap
    def check(self) -> None:
        """Raises ValueError, naming the attribute, for a network that there cannot be."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """Where the encoders are among the variables: what pretrained weights replace."""
        return ("encoder",)

    @property
    def common(self) -> dict[str, Any]:
        """What every module inside is given."""
        return {"axis_name": self.axis_name, "dtype": self.dtype}

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Whether more than one task's loss depends on the parameter at that path ("encoder/conv1/kernel")."""
        raise NotImplementedError


class BranchedNetwork(Network):
    """A network that splits into a trunk, `encode`, and a branch for each task, `decode`.

    Parameters are `encoder/...` (shared) and `decoder_<task>/...`.
    """

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Images [B, H, W, 3], normalised, to logits: task → float32 [B, H, W, channels]."""
        features = self.encode(images, train)
        size = (images.shape[1], images.shape[2])
        return {task: self.decode(features, task, train, size=size) for task in self.heads}

    def encode(self, images: jax.Array, train: bool = False) -> Any:
        """The trunk: images [B, H, W, 3] to what the branches take."""
        raise NotImplementedError

    def decode(
        self, features: Any, task: str, train: bool = False, *, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """A task's branch: what `encode` gives to float32 [B, H, W, channels].

        Args:
            features: as `encode` gives them.
            task: a key of `heads`.
            train: whether BatchNorm takes and updates batch statistics.
            size: the images' (H, W). By default that of the coarsest map times its stride: right if that divides it.
        """
        return getattr(self, f"decoder_{task}")(features, size or self.size_of(features, task), train)

    @nn.nowrap
    def size_of(self, features: Any, task: str) -> tuple[int, int]:
        """The images' (H, W), as far as can be told from the features."""
        raise NotImplementedError

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Whether the parameter at that path ("encoder/conv1/kernel") serves all tasks."""
        return path.startswith("encoder/")

    @nn.nowrap
    def last_shared(self, path: str) -> bool:
        """Whether it belongs to the last shared layers: the encoder's last stage."""
        return path.startswith(LAST_STAGES)


def check_whole(options: Mapping[str, Any], least: int = 1) -> None:
    """Raises ValueError, naming the option, for a value, or one in a list of values, that is no such whole number."""
    for name, value in options.items():
        several = isinstance(value, tuple | list)
        for number in value if several else [value]:
            if isinstance(number, bool) or not isinstance(number, numbers.Integral) or int(number) < least:
                kind = "whole numbers" if several else "a whole number"
                raise ValueError(f"{name} is {value!r}: give {kind} from {least} on")
