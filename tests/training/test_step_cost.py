"""What the paper's network costs a step, from the compiled programs: operations, and memory besides the state."""

import functools
import math

import jax

from configs import weighting
from mtlflax import experiment
from mtlflax.benchmark.step import made_up
from mtlflax.training import parallel


@functools.cache
def compiled(name, level=None, classes=19):
    """The program of a step, and the state's shapes."""
    config = weighting.get_config(f"{name},resnet18")
    if level:
        config.weighting.level = level
    config.data.name, config.data.size, config.batch_size = "streets", (64, 128), 2
    config.data.classes = classes
    config.data.streets.train, config.model.pretrained = 4, ""
    built, mesh = experiment.build(config), parallel.make_mesh(1)
    state = jax.eval_shape(built.init, None)
    batch = parallel.shard_batch(made_up(built.train_fields, built.size, 2), mesh)
    return built.make_train_step(mesh).lower(state, batch).compile(), state


def size(tree):
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def operations(*given):
    return compiled(*given)[0].cost_analysis()["flops"]


def temporary(name):
    return compiled(name)[0].memory_analysis().temp_size_in_bytes


def test_the_new_state_is_where_the_old_one_was():
    program, state = compiled("equal")
    assert program.memory_analysis().alias_size_in_bytes >= size(state)


def test_a_loss_balancing_costs_what_equal_weights_do():
    assert operations("dwa") < 1.001 * operations("equal")
    assert temporary("dwa") < 1.01 * temporary("equal")


def test_task_gradients_of_the_trunk_cost_a_second_backward_pass_of_it_alone():
    """And as many copies of its parameters as there are tasks, at most."""
    trunk = size(compiled("equal")[1].params["encoder"])
    assert operations("cagrad") < 1.3 * operations("equal")
    assert temporary("cagrad") < temporary("equal") + 2 * trunk


def test_task_gradients_of_the_features_cost_no_backward_pass():
    assert operations("cagrad", "representation") < 1.01 * operations("equal")


def test_the_logits_of_all_pixels_are_there_once_beside_their_gradient():
    of_a_class = 2 * 64 * 128 * 4
    few, many = (compiled("equal", None, n)[0].memory_analysis().temp_size_in_bytes for n in (19, 34))
    assert of_a_class < (many - few) / (34 - 19) < 2.1 * of_a_class


def test_a_device_has_no_more_to_do_where_there_are_others():
    """What is averaged over devices is counted once."""
    config = weighting.get_config("equal,resnet18")
    config.data.name, config.data.size, config.batch_size = "streets", (64, 128), 4
    config.data.streets.train, config.model.pretrained = 4, ""
    built, mesh = experiment.build(config), parallel.make_mesh(2)
    batch = parallel.shard_batch(made_up(built.train_fields, built.size, 4), mesh)
    program = built.make_train_step(mesh).lower(jax.eval_shape(built.init, None), batch).compile()
    assert program.cost_analysis()["flops"] < 1.02 * operations("equal")
