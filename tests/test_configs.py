"""Every config file, with every argument: it parses, builds, and its network runs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections.config_flags.config_path import get_value

from configs import common, dwa, equal, ewdw, gwgl, single_task
from configs import weighting as any_weighting
from mtlflax import configuration, experiment, weighting
from mtlflax.errors import UserError

FILES = {
    "dwa": dwa,
    "equal": equal,
    "ewdw": ewdw,
    "gwgl": gwgl,
    "single_task": single_task,
    "weighting": any_weighting,
}
# Every argument of every file, and for one file every combination: the others share its code.
ARGUMENTS = [("dwa", argument) for argument in ("", "quick", *common.BACKBONES, "densenet121,quick")]
ARGUMENTS += [("equal", ""), ("equal", "quick")]
ARGUMENTS += [("ewdw", "quick"), ("gwgl", "quick")]
ARGUMENTS += [("weighting", f"{name},quick") for name in weighting.names()]
ARGUMENTS += [("single_task", f"{task}{rest}") for task in single_task.TASKS for rest in ("", ",quick")]


def test_every_config_file_is_tested():
    found = {path.stem for path in Path(common.__file__).parent.glob("*.py")} - {"common"}
    assert found == set(FILES)


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_a_config_builds(name, argument):
    config = FILES[name].get_config(argument)
    built = experiment.build(config, 2975)  # traces the network's initialisation
    assert built.total_steps > 0
    state = jax.eval_shape(built.init)
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    outputs = jax.eval_shape(lambda v, x: built.model.apply(v, x, train=False), variables, images)
    assert {task.name: (2, 64, 96, task.channels) for task in built.tasks} == {k: v.shape for k, v in outputs.items()}
    if "quick" in argument:
        assert config.data.name == "streets"


@pytest.mark.parametrize("name", any_weighting.LEARNING_RATES)
def test_learning_rates_of_weightings_are_their_defaults(name):
    factory = weighting.loss_balancing.METHODS[name]
    extra = {"gradient_norms": jnp.array([1.0, 3.0]), "losses_after": jnp.array([0.5, 0.9])}
    states = []
    for transform in (factory(), factory(optimizer=optax.adam(any_weighting.LEARNING_RATES[name]))):
        state = transform.init(jnp.zeros(2))
        for losses in ([1.0, 2.0], [0.6, 1.9], [0.5, 1.5]):
            _, state = transform.update(jnp.ones(2), state, jnp.array(losses), **extra)
        states.append(state)
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert not np.array_equal(weighting.weights(states[0]), jnp.ones(2))


def test_options_without_a_default_value_can_be_set():
    config = any_weighting.get_config("dwa,quick")
    assert configuration.resolve(config).weighting.to_dict() == {"name": "dwa", "temperature": 2.0, "window": None}
    config.weighting.window = 25
    with pytest.raises(TypeError):
        config.weighting.window = "many"


def test_the_recipe_is_the_papers():
    config = dwa.get_config()
    expected = {
        "optimizer.name": "adam",
        "optimizer.learning_rate": 1e-4,
        "optimizer.power": 0.9,
        "batch_size": 8,
        "epochs": 100.0,
        "best.from_epoch": 80.0,
        "data.size": (128, 256),
        "data.classes": 19,
        "data.depth": "normalised_disparity",
        "model.backbone": "resnet50",
        "weighting.name": "dwa",
    }
    assert {key: get_value(key, config) for key in expected} == expected
    single = single_task.get_config("depth")
    assert (single.epochs, single.best.from_epoch, single.best.mode) == (85.0, 70.0, "min")


@pytest.mark.parametrize(
    ("module", "argument", "named"),
    [
        (dwa, "quik", "quik"),
        (dwa, "quick,quick", "twice"),
        (dwa, "resnet18,resnet50", "one encoder"),
        (dwa, "depth", "unknown config argument 'depth'"),
        (single_task, "quick", "one task"),
        (single_task, "segmentation,depth", "one task"),
    ],
)
def test_a_wrong_argument_is_named(module, argument, named):
    with pytest.raises(UserError, match=named):
        module.get_config(argument)
