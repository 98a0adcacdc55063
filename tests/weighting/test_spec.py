"""What methods declare, and that `get` and `config.weighting` take the same options."""

import inspect
import warnings

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import FieldReference

from configs import weighting as weighting_config
from mtlflax import weighting
from mtlflax.weighting import loss_balancing, spec
from mtlflax.weighting.stacked import from_geometry

J = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], np.float32)
EPOCHS = {name: {"steps_per_epoch": 1} for name in ("dwa", "ewdw", "stch")}


@pytest.mark.parametrize("name", weighting.names())
def test_get_and_the_config_have_the_same_options_and_defaults(name):
    config = weighting_config.options(name)
    assert config.pop("name") == name
    values = {key: value.get() if isinstance(value, FieldReference) else value for key, value in config.items()}
    assert values == weighting.options(name)
    values |= EPOCHS.get(name, {})
    weighting.get(name, num_tasks=2, **values)  # takes each of them
    # Nothing else: what is left of the signature is no option of a config.
    rest = set(inspect.signature(weighting.find(name)).parameters) - set(values)
    assert rest <= {"num_tasks", "shared", "axis_name", "parameters", "optimizer"}


def test_declarations():
    specs = {name: factory.spec for name, factory in weighting.METHODS.items()}
    assert {name for name, s in specs.items() if s.form == "losses"} == set(loss_balancing.METHODS)
    needs = {name: set(s.needs) for name, s in specs.items() if s.needs}
    assert needs == {
        "adamt": {"gradient_norms"},
        "excess_mtl": {"task_gradients"},
        "famo": {"losses_after"},
        "gradnorm": {"gradient_norms"},
        "gwgl": {"gradient_norms"},
    }
    norms_of = {name: s.norms_of for name, s in specs.items() if s.norms_of}
    assert norms_of == {"adamt": "own", "gradnorm": "last_shared", "gwgl": "last_shared"}
    assert {name for name, s in specs.items() if s.keeps_gradients} == {"db_mtl", "excess_mtl", "moco"}
    assert {name: s.samples for name, s in specs.items() if s.samples} == {"modo": 2, "sdmgrad": 2}


@spec.loss_balancing(needs=("gradient_norms",))
def inverse_norms(floor: float = 1e-8):
    def update(cotangents, state, losses, *, gradient_norms, **extra_args):
        return cotangents / (gradient_norms + floor), state

    return optax.GradientTransformationExtraArgs(lambda losses: optax.EmptyState(), update)


@spec.gradient_balancing()
def doubled(num_tasks, *, factor: float = 2.0, shared=None, axis_name=None):
    def weigh(geometry, losses, inner):
        return jnp.full(num_tasks, factor), inner

    return from_geometry(weigh, num_tasks=num_tasks, shared=shared, axis_name=axis_name)


def test_a_factory_of_ones_own_is_a_method():
    assert weighting.options(inverse_norms) == {"floor": 1e-8, "norms_of": "last_shared"}
    t = weighting.get(inverse_norms, num_tasks=2, floor=0.0)
    unit, _ = t.update(J, t.init(J[0]), losses=jnp.ones(2))
    np.testing.assert_allclose(unit, (J / np.linalg.norm(J, axis=1, keepdims=True)).sum(axis=0), rtol=1e-5)
    alone, _ = t.update(J, t.init(J[0]), losses=jnp.ones(2), present=[False, True])
    np.testing.assert_allclose(alone, J[1], rtol=1e-6)  # it has no weights: 1

    assert weighting.options(doubled) == {"factor": 2.0, "level": "parameters"}
    t = weighting.get(doubled, num_tasks=2, factor=3.0)
    np.testing.assert_allclose(t.update(J, t.init(J[0]))[0], 3 * J.sum(axis=0), rtol=1e-6)


def test_mistakes_in_a_factory_are_named():
    def plain(num_tasks, *, shared=None, axis_name=None):
        raise AssertionError

    with pytest.raises(ValueError, match=r"weighting 'plain' has no spec: decorate .*@weighting.spec.loss_balancing"):
        weighting.get(plain, num_tasks=2)
    with pytest.raises(ValueError, match="losses_before"):
        spec.loss_balancing(needs=("losses_before",))
    with pytest.raises(ValueError, match="norms_of 'all'"):
        spec.loss_balancing(needs=("gradient_norms",), norms_of="all")

    @spec.loss_balancing()
    def bare(rate):
        raise AssertionError

    with pytest.raises(ValueError, match="'bare': option rate has no default"):
        weighting.options(bare)


@pytest.mark.parametrize("name", ["dwa", "ewdw", "stch"])
def test_epochs_left_out_warn_at_the_users_line(name):
    for make in (lambda: weighting.get(name, num_tasks=2), lambda: loss_balancing.METHODS[name]()):
        with pytest.warns(UserWarning, match="each update counts as an epoch: pass steps_per_epoch=") as caught:
            make()
        assert [warning.filename for warning in caught] == [__file__]
    options = {"stch": {"warmup_epochs": 0}}.get(name, {"window": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weighting.get(name, num_tasks=2, **options)  # where it does not matter
        weighting.get(name, num_tasks=2, steps_per_epoch=5)


@pytest.mark.parametrize("name", ["db_mtl", "excess_mtl", "moco"])
def test_methods_that_keep_gradients_refuse_features(name):
    with pytest.raises(ValueError, match=f"{name}: axis_name is 'd', but the method keeps gradients"):
        weighting.get(name, num_tasks=2, axis_name="d")
    if name != "excess_mtl":
        with pytest.raises(ValueError, match=f"{name}: level is 'representation', but the method keeps gradients"):
            weighting.get(name, num_tasks=2, level="representation")


def test_whose_norms_are_measured():
    grads = {"trunk/first": [[3.0], [1.0]], "trunk/last": [[4.0], [1.0]], "head": [[12.0, 0.0], [0.0, 3.0]]}
    grads = {path: jnp.array(values) for path, values in grads.items()}
    given = {"shared": lambda path: path.startswith("trunk"), "last_shared": lambda path: path.endswith("last")}
    params = {path: g[0] for path, g in grads.items()}
    for norms_of, expected in (("last_shared", [4, 1]), ("shared", [5, 2**0.5]), ("own", [12, 3])):
        t = weighting.get("adamt", num_tasks=2, norms_of=norms_of, **given)
        _, state = t.update(grads, t.init(params), losses=jnp.ones(2))
        np.testing.assert_allclose(weighting.weights(state), np.array(expected) / sum(expected), rtol=1e-6)
    t = weighting.get("adamt", num_tasks=2)  # nothing is a task's own: over all
    _, state = t.update(grads, t.init(params), losses=jnp.ones(2))
    np.testing.assert_allclose(weighting.weights(state), np.array([13, 11**0.5]) / (13 + 11**0.5), rtol=1e-6)


def test_independent_gradients_are_used_if_asked_for():
    samples = (J + 0.5, J - 0.5)
    with_samples, biased = (weighting.get("modo", num_tasks=2, gamma=0.01, independent=i) for i in (True, False))
    state = biased.init(J[0])
    plain = weighting.weights(biased.update(J, state)[1])
    np.testing.assert_array_equal(weighting.weights(biased.update(J, state, independent=samples)[1]), plain)
    assert np.abs(weighting.weights(with_samples.update(J, state, independent=samples)[1]) - plain).max() > 1e-3


def test_a_method_of_ones_own_that_makes_nothing_or_the_wrong_weights_is_named():
    @spec.gradient_balancing()
    def forgetful(num_tasks, *, shared=None, axis_name=None):
        """Return nothing."""

    @spec.gradient_balancing()
    def scalar(num_tasks, *, shared=None, axis_name=None):
        return from_geometry(lambda geometry, losses, inner: (jnp.ones(()), inner), num_tasks=num_tasks)

    with pytest.raises(ValueError, match="'forgetful' returns a NoneType, no optax transformation"):
        weighting.get(forgetful, num_tasks=2)
    t = weighting.get(scalar, num_tasks=2)
    with pytest.raises(ValueError, match=r"gives weights of shape \(\), not \(2,\)"):
        t.update(jnp.eye(2), t.init(jnp.zeros(2)), losses=jnp.ones(2))
