"""Every config file, with every argument: it parses, builds, and its network runs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections.config_flags.config_path import get_value

from configs import common, dwa, equal, single_task
from mtlflax import experiment
from mtlflax.errors import UserError

FILES = {"dwa": dwa, "equal": equal, "single_task": single_task}
# Every argument of every file, and for one file every combination: the others share its code.
ARGUMENTS = [("dwa", argument) for argument in ("", "quick", *common.BACKBONES, "densenet121,quick")]
ARGUMENTS += [("equal", ""), ("equal", "quick")]
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
