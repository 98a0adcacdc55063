"""Checkpoints: exact, the newest and the best kept, what is broken said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlflax.errors import UserError
from mtlflax.run.checkpoint import Checkpoints
from mtlflax.training import parallel


def make_state(seed: int):
    keys = jax.random.split(jax.random.key(seed))
    state = {"w": jax.random.normal(keys[0], (3, 2)), "n": jnp.array(seed, jnp.int32)}
    return jax.device_put(state, parallel.replicated(parallel.make_mesh()))


def save(folder, scores, keep=2):
    checkpoints = Checkpoints(folder, keep=keep)
    for step, score in scores.items():
        checkpoints.save(step, make_state(step), config={"seed": 0}, score=score)
    checkpoints.close()


def kept(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def test_what_is_restored_is_what_was_saved(tmp_path):
    save(tmp_path, {7: 0.5})
    restored = Checkpoints(tmp_path, read_only=True).restore(7, make_state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(7))
    assert restored["w"].sharding.is_equivalent_to(make_state(0)["w"].sharding, 2)


def test_the_state_is_copied_before_save_returns(tmp_path):
    """The train step reuses the state's memory at once."""
    checkpoints = Checkpoints(tmp_path)
    state, expected = make_state(1), jax.device_get(make_state(1))
    scramble = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    checkpoints.save(1, state, config={})
    scramble(state)
    checkpoints.close()
    restored = Checkpoints(tmp_path, read_only=True).restore(1, make_state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_newest_and_the_best_are_kept_also_over_restarts(tmp_path, processes):
    scores = {1: None, 2: 0.3, 3: 0.9, 4: 0.5, 5: None, 6: 0.4}
    if processes == 1:
        save(tmp_path, scores)
    else:
        for step, score in scores.items():
            save(tmp_path, {step: score})
    assert kept(tmp_path) == [3, 5, 6]
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert (checkpoints.best_step, checkpoints.latest_step) == (3, 6)


def test_without_scores_there_is_no_best(tmp_path):
    save(tmp_path, {1: None, 2: None, 3: None})
    assert kept(tmp_path) == [2, 3]
    assert Checkpoints(tmp_path, read_only=True).best_step is None


def test_a_checkpoint_of_another_network_or_a_damaged_one_is_named(tmp_path):
    save(tmp_path, {1: None})
    checkpoints = Checkpoints(tmp_path, read_only=True)
    with pytest.raises(UserError, match="checkpoints/1"):
        checkpoints.restore(1, {**make_state(0), "extra": jnp.zeros(3)})
    for path in (tmp_path / "checkpoints" / "1" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match="checkpoints/1"):
        Checkpoints(tmp_path, read_only=True).restore(1, make_state(0))
