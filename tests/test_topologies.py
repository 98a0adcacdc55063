"""One battery over every topology, with both encoder families, two tasks and three; then what each adds of its own."""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mtlflax import models, trunk
from mtlflax.models import densenet, resnet

DECODER = {"decoder_channels": (16, 12, 12, 8, 8), "head_stride": 4}
HEAD = {"atrous_rates": (1, 2), "aspp_channels": 12}
# Of each topology, options that keep it small and bring in all its parts.
OPTIONS: dict[str, dict[str, Any]] = {
    "unet": DECODER,
    "deeplabv3plus": {**HEAD, "low_channels": 8},
    "mtan": {**HEAD, "output_stride": 16},
    "cross_stitch": {**DECODER, "attention": "gate"},
    "sluice": DECODER,
    "nddr_cnn": {**DECODER, "shortcut": True},
}
HEADS = {"segmentation": 5, "depth": 1, "normals": 3}
CASES = [(name, "resnet18", 2) for name in models.MODELS]
CASES += [pytest.param(name, "densenet121", 3, marks=pytest.mark.slow) for name in models.MODELS]
ODD = (45, 71)

battery = pytest.mark.parametrize(("name", "backbone", "tasks"), CASES)


@pytest.fixture
def shallow(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Encoders with all their parts but few layers, compiled in a hurry: what takes time is compiling."""
    blocks = 2 if name == "mtan" else 1  # MTAN looks inside the stages
    monkeypatch.setitem(resnet.VARIANTS, "resnet18", ((blocks,) * 4, False))
    monkeypatch.setitem(densenet.VARIANTS, "densenet121", (blocks,) * 4)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def network(name: str, backbone: str = "resnet18", tasks: int = 2, **options: Any) -> Any:
    heads = dict(list(HEADS.items())[:tasks])
    return models.get(name, backbone=backbone, heads=heads, **{**OPTIONS[name], **options})


def pictures(*size: int, batch: int = 2, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (batch, *size, 3))


class Ran(NamedTuple):
    """What a network has computed, on the host: one program each for training, evaluation and half precision.

    Attributes:
        variables: before.
        gradients: by path, [K, ...].
        moved: by path, batch statistics after training.
        still: the same after evaluation.
        outputs: of evaluation.
        half: of evaluation in bfloat16.
        traces: how often the evaluation has been traced in two calls.
    """

    variables: Any
    gradients: dict[str, np.ndarray]
    moved: dict[str, np.ndarray]
    still: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    half: dict[str, np.ndarray]
    traces: int


def draw(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
    """A variable drawn on the host, which saves compiling `init`. Mixtures are uneven, so that all tasks differ."""
    if path[-1] == "kernel":
        return rng.normal(0, np.sqrt(1 / np.prod(leaf.shape[:3])), leaf.shape).astype(np.float32)
    if path[-1] in ("alpha", "beta"):
        return rng.uniform(0.1, 0.6, leaf.shape).astype(np.float32)
    return np.full(leaf.shape, path[-1] in ("scale", "var"), np.float32)


@cache
def ran(name: str, backbone: str, tasks: int) -> Ran:
    model, images = network(name, backbone, tasks), pictures(*ODD)
    rng = np.random.default_rng(0)
    flat = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), images))
    variables = unflatten_dict({path: draw(path, leaf, rng) for path, leaf in flat.items()})

    @jax.jit
    def train(variables: Any, images: jax.Array) -> Any:
        def losses(params: Any) -> Any:
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            outputs, updated = model.apply(given, images, True, mutable=["batch_stats"])
            return jnp.stack([jnp.mean(jnp.square(y - 0.3)) for y in outputs.values()]), updated["batch_stats"]

        _, pullback, stats = jax.vjp(losses, variables["params"], has_aux=True)
        pulled = [pullback(one_hot)[0] for one_hot in jnp.eye(tasks)]
        return jax.tree.map(lambda *g: jnp.stack(g), *pulled), stats

    traces = 0

    def evaluate(model: Any, variables: Any, images: jax.Array) -> Any:
        nonlocal traces
        traces += 1
        return model.apply(variables, images, mutable=["batch_stats"])

    evaluate = jax.jit(evaluate, static_argnums=0)
    gradients, moved = jax.device_get(train(variables, images))
    evaluate(network(name, backbone, tasks), variables, pictures(*ODD, seed=1))
    outputs, still = jax.device_get(evaluate(model, variables, images))
    counted = traces
    half, _ = jax.device_get(evaluate(network(name, backbone, tasks, dtype="bfloat16"), variables, images))
    moved, still = (flatten_dict(stats, sep="/") for stats in (moved, still["batch_stats"]))
    return Ran(variables, flatten_dict(gradients, sep="/"), moved, still, outputs, half, counted)


def test_every_topology_is_tested() -> None:
    assert set(OPTIONS) == set(models.MODELS)


@pytest.mark.parametrize("size", [(64, 96), (33, 130)])
@pytest.mark.parametrize("backbone", ["resnet18", "densenet121"])
@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.usefixtures("shallow")
def test_output_shapes(name: str, backbone: str, size: tuple[int, int]) -> None:
    model = network(name, backbone, 3, dtype="bfloat16")
    outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), pictures(*size))
    assert {task: (y.shape, y.dtype) for task, y in outputs.items()} == {
        task: ((2, *size, channels), jnp.float32) for task, channels in HEADS.items()
    }
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@battery
@pytest.mark.usefixtures("shallow")
def test_every_parameter_has_a_gradient_and_shared_ones_have_several(name: str, backbone: str, tasks: int) -> None:
    gradients, model = ran(name, backbone, tasks).gradients, network(name, backbone, tasks)
    assert all(np.all(np.isfinite(g)) for g in gradients.values())
    reached = {path: np.count_nonzero(np.abs(g).reshape(tasks, -1).max(1)) for path, g in gradients.items()}
    assert not [path for path, count in reached.items() if count == 0]
    assert {path for path, count in reached.items() if count > 1} == set(filter(model.shared, reached))
    assert set(reached.values()) == {1, tasks}


@battery
@pytest.mark.usefixtures("shallow")
def test_batch_statistics_move_in_training_alone(name: str, backbone: str, tasks: int) -> None:
    result = ran(name, backbone, tasks)
    before = flatten_dict(result.variables["batch_stats"], sep="/")
    assert not [path for path, x in before.items() if np.array_equal(x, result.moved[path])]
    assert not [path for path, x in before.items() if not np.array_equal(x, result.still[path])]


@battery
@pytest.mark.usefixtures("shallow")
def test_bfloat16_is_near_float32(name: str, backbone: str, tasks: int) -> None:
    result = ran(name, backbone, tasks)
    for task, full in result.outputs.items():
        error = np.linalg.norm(result.half[task] - full) / np.linalg.norm(full)
        assert 1e-4 < error < 0.1  # bfloat16 has 8 bits: another computation, and not far away


@battery
@pytest.mark.usefixtures("shallow")
def test_compiles_once_and_is_hashable(name: str, backbone: str, tasks: int) -> None:
    assert ran(name, backbone, tasks).traces == 1
    assert hash(network(name, backbone, tasks)) == hash(network(name, backbone, tasks))


@battery
@pytest.mark.usefixtures("shallow")
def test_encode_and_decode_are_the_whole(name: str, backbone: str, tasks: int) -> None:
    """Each with its own parameters alone: a trunk that needed a branch's, or a branch another's, would miss them."""
    result, model = ran(name, backbone, tasks), network(name, backbone, tasks)
    if not trunk.has_trunk(model):
        assert not hasattr(model, "encode")
        assert not hasattr(model, "last_shared")
        return
    of_trunk, own = trunk.partition(model, result.variables["params"])

    def apply(params: trunk.Flat, *args: Any, **keywords: Any) -> Any:
        given = {"params": unflatten_dict(params, sep="/"), "batch_stats": result.variables["batch_stats"]}
        return model.apply(given, *args, **keywords)

    @jax.jit
    def parts(images: jax.Array) -> Any:
        features = apply(of_trunk, images, method="encode")
        return {task: apply(own, features, task, size=ODD, method="decode") for task in result.outputs}

    ours = jax.device_get(parts(pictures(*ODD)))
    for task, expected in result.outputs.items():
        np.testing.assert_allclose(ours[task], expected, rtol=1e-4, atol=1e-5)

    def one(images: jax.Array, task: str) -> jax.Array:
        only = {path: x for path, x in own.items() if path.startswith(f"decoder_{task}/")}
        return apply(only, apply(of_trunk, images, method="encode"), task, method="decode")

    for task in result.outputs:  # of even sizes decode knows the size
        assert jax.eval_shape(lambda x, task=task: one(x, task), pictures(64, 96)).shape[:3] == (2, 64, 96)
    last = [path for path in of_trunk if model.last_shared(path)]
    assert last
    assert all(model.shared(path) for path in last)
