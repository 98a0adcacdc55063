"""A weighting as the train step takes it: in loss space or on task gradients, at what level, and what it looks at."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mtlflax import weighting
from mtlflax.training.parallel import AXIS
from mtlflax.training.trunk import has_trunk, partition

LEVELS = ("parameters", "representation")
NORMS_OF = ("last_shared", "shared", "own")
SAMPLED = ("modo", "sdmgrad")  # take independent samples of the task gradients


@dataclasses.dataclass(frozen=True)
class Method:
    """A weighting as the step takes it.

    Attributes:
        transform: in loss space, or, where there is a level, on stacked task gradients `{"own": eye(K), "trunk": ...}`:
            what multiplies the gradient of a branch's parameters is read off a diagonal that is not shared.
        start: of a loss weighting, (number of tasks, the shared parameters) → its state.
        level: None for a loss weighting. For a gradient balancing, whether it acts on the gradients of the shared
            'parameters' or of the 'representation', the features that the trunk gives.
        needs: what a loss weighting looks at beside the losses.
        norms_of: which parameters its gradient norms are of: 'last_shared', the network's last shared layers, 'shared',
            or each task's 'own'.
        samples: how many independent samples of the task gradients a gradient balancing is given; each is of a part of
            the batch. 0: none, the gradients are of the whole.
    """

    transform: optax.GradientTransformationExtraArgs
    start: Callable[[int, Any], Any] | None = None
    level: str | None = None
    needs: frozenset[str] = frozenset()
    norms_of: str = "shared"
    samples: int = 0

    @property
    def looks_at_gradients(self) -> bool:
        """Whether there is more to do than pulling weighted losses back."""
        return self.level is not None or bool(self.needs - {"losses_after"})


def balance_losses(name: str, *, norms_of: str = "", **options: Any) -> Method:
    """A loss weighting for the step.

    Args:
        name: one of `weighting.loss_balancing.METHODS`.
        norms_of: one of `NORMS_OF`; by default the method's own choice: the last shared layers (Chen et al. 2018,
            section 3.1), for `adamt` each task's own (Jha et al. 2020).
        **options: the method's.

    Raises:
        ValueError: an unknown name or option.
    """
    norms_of = norms_of or ("own" if name == "adamt" else "last_shared")
    if norms_of not in NORMS_OF:
        raise ValueError(f"weighting.norms_of is {norms_of!r}: choose one of {', '.join(NORMS_OF)}")
    needs = weighting.loss_balancing.needs(name)

    def start(num_tasks: int, shared: Any) -> Any:
        about = {"parameters": shared} if "task_gradients" in needs else {}
        return weighting.loss_balancing.get(name, **options, **about).init(jnp.zeros(num_tasks))

    return Method(weighting.loss_balancing.get(name, **options), start, needs=needs, norms_of=norms_of)


def balance_gradients(
    name: str,
    model: Any,
    *,
    num_tasks: int,
    level: str = "parameters",
    independent: bool | None = None,
    **options: Any,
) -> Method:
    """A gradient balancing for the step.

    Args:
        name: one of `weighting.gradient_balancing.METHODS`.
        model: the network.
        num_tasks: K.
        level: one of `LEVELS`.
        independent: whether a method that takes independent samples is given those of two halves of the batch, at the
            cost of two backward passes; by default it is.
        **options: the method's.

    Raises:
        ValueError: an unknown name, option or level, or a method or network that has no such level.
    """
    if level not in LEVELS:
        raise ValueError(f"weighting.level is {level!r}: choose {' or '.join(LEVELS)}")
    if level == "representation" and not has_trunk(model):
        raise ValueError(f"weighting.level is {level!r}: {type(model).__name__} has no trunk that gives features")
    if level == "representation" and name in weighting.gradient_balancing.KEEPS_GRADIENTS:
        raise ValueError(
            f"weighting.level is {level!r}: {name} keeps gradients from step to step, and those of one batch's "
            "features are not those of the next's: it takes 'parameters'"
        )

    def shared(path: str) -> bool:
        kind, _, rest = path.partition("/")
        return kind == "trunk" and (level == "representation" or model.shared(rest))

    axis_name = AXIS if level == "representation" else None  # a device has its own frames' features
    get = weighting.gradient_balancing.get
    transform = get(name, num_tasks=num_tasks, shared=shared, axis_name=axis_name, **options)
    if independent and name not in SAMPLED:
        raise ValueError(f"weighting {name!r} takes no independent samples: those that do are {', '.join(SAMPLED)}")
    samples = 2 if name in SAMPLED and independent is not False else 0
    return Method(transform, level=level, samples=samples)


def init_method(
    method: Method, model: nn.Module, variables: Mapping[str, Any], images: jax.Array, num_tasks: int
) -> Any:
    """The method's state at step 0."""
    trunk, _ = partition(model, variables["params"])
    if method.start is not None:
        return method.start(num_tasks, {path: x for path, x in trunk.items() if model.shared(path)})
    if method.level == "representation":
        shapes = jax.eval_shape(lambda v: model.apply(v, images, method="encode"), variables)
        trunk = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return method.transform.init({"own": jnp.zeros(num_tasks), "trunk": trunk})
