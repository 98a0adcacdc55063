"""What a network is: the interface that training uses, and the base classes of the built-in ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
from flax import linen as nn
from flax.core import FrozenDict

from mtlflax.models.checks import check_whole
from mtlflax.models.encoders import Backbone, encoder
from mtlflax.models.layers import Layer


class Network(Protocol):
    """What training asks of a network, which is a Flax module (so `init`, `apply` and `clone` are flax's).

    `apply(variables, images, train)` maps normalized images [B, H, W, 3] to {task: float32 [B, H, W, channels]}, in the
    order of the tasks. In training there may be auxiliary predictions `{task}/aux/{name}`, whose losses are added.

    A network may offer more:

    - `encode(images, train)` and `decode(features, task, train, *, size)`: it splits into a trunk and a branch per
      task. Then each branch is differentiated once, whatever the weighting, and level "representation" is possible.
      A property `splits` that is False says that this network cannot be split after all.
    - `in_trunk(path) -> bool`: whether a parameter belongs to `encode`; default: the shared ones do.
    - `last_shared(path) -> bool`: the layers whose gradients GradNorm measures; default: all shared parameters.
    - `encoders`, a tuple of paths ("encoder",): where pretrained weights go; default: nowhere.
    """

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return initial variables: "params", and "batch_stats" if there are any."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs, and the updated collections if there are `mutable` ones."""

    def clone(self, **updates: Any) -> Any:
        """Return a copy with other attributes, as `axis_name`."""

    def shared(self, path: str) -> bool:
        """Return whether several tasks' losses depend on a parameter ("encoder/conv1/kernel"): what is balanced."""


class Topology(Layer):
    """The base class of the built-in networks. A subclass defines `__call__`, `shared`, and checks its own attributes.

    Attributes:
        backbone: the encoder, as `models.encoder` takes it.
        heads: task → channels, in the order of the outputs; at least `fewest` tasks.
        remat: recompute the encoder's blocks, and the larger modules behind it, in the backward pass: less memory, more
            time, the same results. On a CPU only the time changes, since XLA is free to keep the values there.
        dtype: of the computation, e.g. "bfloat16"; parameters, batch statistics, heads and logits are float32.

    An attribute whose value makes no sense is a ValueError that names it.
    """

    backbone: Backbone
    heads: Mapping[str, int]
    remat: bool = False

    fewest: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Check the attributes and make them hashable, so that networks can be static arguments."""
        if not self.heads:
            raise ValueError("heads is empty: give at least one task → channels")
        if wrong := [task for task in self.heads if not (isinstance(task, str) and task and "/" not in task)]:
            raise ValueError(f"heads has a task named {wrong[0]!r}: give names without a slash")
        check_whole({f"heads[{task!r}]": channels for task, channels in self.heads.items()})
        if len(self.heads) < self.fewest:
            raise ValueError(f"{type(self).__name__} needs two tasks or more, not {', '.join(self.heads)} alone")
        self._check()
        self.heads = FrozenDict(self.heads)
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), list):
                setattr(self, field.name, tuple(getattr(self, field.name)))
        super().__post_init__()

    @nn.nowrap
    def _check(self) -> None:
        """Raise ValueError, naming the attribute, for a value that makes no sense."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """Where the encoders are among the variables: what pretrained weights replace."""
        return ("encoder",)

    @nn.nowrap
    def rematted(self, module: type[nn.Module], *static: int, **options: Any) -> Any:
        """Return a module's class, recomputed in the backward pass if `remat`; static are arguments without arrays."""
        return nn.remat(module, static_argnums=static, **options) if self.remat else module

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Return whether the losses of several tasks depend on the parameter at that path ("encoder/conv1/kernel")."""
        raise NotImplementedError


class BranchedNetwork(Topology):
    """A network that splits into a trunk, `encode`, and a branch per task, `decode`, parameters `decoder_<task>/`."""

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Map normalized images [B, H, W, 3] to logits: task → float32 [B, H, W, channels]."""
        features = self.encode(images, train)
        size = (images.shape[1], images.shape[2])
        return {task: self.decode(features, task, train, size=size) for task in self.heads}

    def encode(self, images: jax.Array, train: bool = False) -> Any:
        """Run the trunk: images [B, H, W, 3] to the features that the branches take."""
        raise NotImplementedError

    def decode(self, features: Any, task: str, train: bool = False, *, size: tuple[int, int]) -> jax.Array:
        """Run the branch of a task: features, from `encode`, to logits float32 [B, *size, channels]."""
        return getattr(self, f"decoder_{task}")(features, size, train)

    @nn.nowrap
    def shared(self, path: str) -> bool:
        """Return whether the parameter at that path ("encoder/conv1/kernel") serves all tasks."""
        return path.startswith("encoder/")

    @nn.nowrap
    def last_shared(self, path: str) -> bool:
        """Return whether it belongs to the last shared layers: the last stage of the encoder."""
        return path.startswith(f"encoder/{getattr(encoder(self.backbone), 'last_stage', '')}")
