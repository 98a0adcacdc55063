"""What a weighting method is, declared once, where it is defined.

A method is a factory of an optax transformation. One of two decorators says which form it has and what it needs:

    @spec.loss_balancing(needs=("gradient_norms",), norms_of="last_shared")
    def gradnorm(alpha=1.5, ...): ...

    @spec.gradient_balancing(samples=2)
    def modo(num_tasks, *, gamma=0.1, ..., shared=None, axis_name=None): ...

The decorator attaches a `Spec`; the options and their defaults are read from the factory's signature.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

import jax
import optax

from mtlflax.weighting import present

# What a method's factory makes.
Transformation: TypeAlias = optax.GradientTransformationExtraArgs

F = TypeVar("F", bound=Callable[..., optax.GradientTransformation])

NEEDS = ("gradient_norms", "task_gradients", "losses_after")
NORMS_OF = ("last_shared", "shared", "own")
LEVELS = ("parameters", "representation")
# Parameters of factories that are no options: `get` fills them in, but for `optimizer`, which no config can hold.
_NOT_OPTIONS = ("num_tasks", "shared", "axis_name", "parameters", "optimizer")


@dataclasses.dataclass(frozen=True)
class Spec:
    """A weighting method's declaration.

    Attributes:
        name: of the factory.
        form: "losses" for a loss balancing, "gradients" for a gradient balancing.
        needs: what the `update` of a loss balancing takes beside the losses: some of `NEEDS`.
        norms_of: whose `gradient_norms` by default, one of `NORMS_OF`; None if it needs none.
        samples: how many independent samples of the task gradients `update` takes; 0 for most.
        keeps_gradients: whether the state holds arrays of the gradients' shape. The factory of such a loss balancing
            takes `parameters`, the shared parameters by path, which tell the shapes.
    """

    name: str
    form: str
    needs: frozenset[str] = frozenset()
    norms_of: str | None = None
    samples: int = 0
    keeps_gradients: bool = False


class Factory(Protocol):
    """A weighting method: a factory that carries a spec."""

    spec: Spec

    def __call__(self, *args: Any, **options: Any) -> Transformation:
        """Make the transformation."""


def loss_balancing(
    *, needs: Iterable[str] = (), norms_of: str | None = None, keeps_gradients: bool = False
) -> Callable[[F], F]:
    """Declare a factory `name(**options)` of a transformation in loss space to be a weighting method.

    What the decorated factory makes follows the rule for absent tasks, see `present`, and raises ValueError in an
    `update` that lacks one of the needs. Arguments as in `Spec`; `norms_of` is "last_shared" unless given, if
    `gradient_norms` are needed. An unknown need or `norms_of` is a ValueError.
    """
    needed = frozenset(needs)
    if "gradient_norms" in needed:
        norms_of = norms_of or "last_shared"
    if not needed <= set(NEEDS) or norms_of not in (None, *NORMS_OF):
        raise ValueError(f"needs {sorted(needed)}, norms_of {norms_of!r}: choose from {NEEDS} and {NORMS_OF}")

    def decorate(factory: Any) -> Any:
        name = factory.__name__

        @functools.wraps(factory)
        def make(*args: Any, **options: Any) -> Transformation:
            transform = present.in_loss_space(factory(*args, **options))

            def update(
                cotangents: jax.Array, state: Any, losses: jax.Array | None = None, **extra_args: Any
            ) -> tuple[jax.Array, Any]:
                for need in sorted(needed):
                    if extra_args.get(need) is None:
                        raise ValueError(f"{name}: update needs {need}=... (its spec.needs says so)")
                return transform.update(cotangents, state, losses, **extra_args)

            return optax.GradientTransformationExtraArgs(transform.init, update)

        made: Any = make
        made.spec = Spec(name, "losses", needed, norms_of, keeps_gradients=keeps_gradients)
        return made

    return decorate


def gradient_balancing(*, samples: int = 0, keeps_gradients: bool = False) -> Callable[[F], F]:
    """Declare a factory `name(num_tasks, *, shared=None, axis_name=None, **options)` to be a weighting method.

    It returns `stacked.from_geometry(...)` or `stacked.from_gradients(...)`. A factory that keeps gradients takes no
    `axis_name`; one with samples has an option `independent: bool = True`. Arguments as in `Spec`.
    """

    def decorate(factory: Any) -> Any:
        factory.spec = Spec(factory.__name__, "gradients", samples=samples, keeps_gradients=keeps_gradients)
        return factory

    return decorate


def of(factory: Any) -> Spec:
    """Return the spec of a factory; ValueError if it has none."""
    found = getattr(factory, "spec", None)
    if not isinstance(found, Spec):
        raise ValueError(
            f"weighting {getattr(factory, '__name__', factory)!r} has no spec: decorate its factory with "
            "@weighting.spec.loss_balancing() or @weighting.spec.gradient_balancing()"
        )
    return found


def table(namespace: Mapping[str, Any]) -> dict[str, Factory]:
    """Return those of a module's names, `globals()`, that are methods."""
    return {name: value for name, value in namespace.items() if isinstance(getattr(value, "spec", None), Spec)}


def parameters(factory: Factory) -> dict[str, inspect.Parameter]:
    """Return the parameters of a factory that are options, with evaluated annotations; ValueError without a default."""
    found = inspect.signature(factory, eval_str=True).parameters
    chosen = {key: parameter for key, parameter in found.items() if key not in _NOT_OPTIONS}
    for key, parameter in chosen.items():
        if parameter.default is parameter.empty:
            raise ValueError(f"weighting {of(factory).name!r}: option {key} has no default: give it one")
    return chosen


def options(factory: Factory) -> dict[str, Any]:
    """Return the options of a method with their defaults: those of its factory, and those that its form adds."""
    declared = of(factory)
    result = {key: parameter.default for key, parameter in parameters(factory).items()}
    if declared.norms_of is not None:
        result["norms_of"] = declared.norms_of
    if declared.form == "gradients":
        result["level"] = LEVELS[0]
    return result


def check_options(factory: Factory, given: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that the method does not have, or a level or `norms_of` that does not exist."""
    name = of(factory).name
    known = options(factory)
    takes_optimizer = "optimizer" in inspect.signature(factory).parameters
    for key in given:
        if key not in known and not (key == "optimizer" and takes_optimizer):
            raise ValueError(f"weighting {name!r} has no option {key!r}: choose from {', '.join(known) or 'none'}")
    for key, choices in (("level", LEVELS), ("norms_of", NORMS_OF)):
        if key in given and given[key] not in choices:
            raise ValueError(f"{name}: {key} is {given[key]!r}: choose from {', '.join(choices)}")


def check_keeps(factory: Factory, level: str, axis_name: str | None) -> None:
    """Raise ValueError if a method that keeps gradients is to work on those of features, or on parts of them."""
    declared = of(factory)
    if declared.keeps_gradients and (level == "representation" or axis_name is not None):
        asked = f"level is {level!r}" if axis_name is None else f"axis_name is {axis_name!r}"
        raise ValueError(
            f"{declared.name}: {asked}, but the method keeps gradients from step to step, and the features of one "
            "batch, of which each device has its own, are not those of the next: use level 'parameters' without "
            "axis_name"
        )
