"""Checkpoints: exact, the newest and the best kept, damaged ones named and passed over."""

import errno
import gc
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlflax.errors import UserError
from mtlflax.run import checkpoint, checksums, orbax_errors
from mtlflax.run.checkpoint import Checkpoints, DamagedError
from mtlflax.training import parallel


def make_state(seed: int):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {"w": jax.random.normal(keys[0], (3, 2)), "large": jax.random.normal(keys[1], (300, 40))}
    state = {"params": params, "batch_stats": {"mean": jax.random.normal(keys[2], (2,))}, "n": jnp.array(seed)}
    return jax.device_put(state, parallel.replicated(parallel.make_mesh(1)))


def save(folder, scores, keep=2):
    checkpoints = Checkpoints(folder, keep=keep)
    for step, score in scores.items():
        checkpoints.save(step, make_state(step), config={"seed": 0}, score=score)
    checkpoints.close()


def kept(folder):
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def data_file(folder, step):
    """The largest file that restoring reads: the values of the large array."""
    files = (p for p in (folder / "checkpoints" / str(step) / "state").rglob("*") if p.is_file())
    return max(files, key=lambda p: p.stat().st_size)


def test_what_is_restored_is_what_was_saved(tmp_path):
    save(tmp_path, {7: 0.5})
    step, restored = Checkpoints(tmp_path).restore_latest(make_state(0))
    assert step == 7
    assert_same(restored, make_state(7))
    assert restored["params"]["w"].sharding.is_equivalent_to(make_state(0)["params"]["w"].sharding, 2)


def test_the_state_is_copied_before_save_returns(tmp_path):
    """The train step reuses the state's memory at once."""
    checkpoints = Checkpoints(tmp_path)
    state, expected = make_state(1), jax.device_get(make_state(1))
    scramble = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    checkpoints.save(1, state, config={})
    scramble(state)
    checkpoints.close()
    assert_same(Checkpoints(tmp_path, read_only=True).restore(1, make_state(0)), expected)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_newest_and_the_best_are_kept_also_over_restarts(tmp_path, processes):
    scores = {1: None, 2: 0.3, 3: 0.9, 4: 0.5, 5: None, 6: 0.4}
    if processes == 1:
        save(tmp_path, scores)
    else:
        for step, score in scores.items():
            save(tmp_path, {step: score})
    assert kept(tmp_path) == ["3", "5", "6"]
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert (checkpoints.best_step, checkpoints.latest_step) == (3, 6)


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_without_a_score_a_checkpoint_does_not_compete(tmp_path, nothing):
    save(tmp_path / "none", {1: nothing, 2: nothing, 3: nothing})
    assert kept(tmp_path / "none") == ["2", "3"]
    assert Checkpoints(tmp_path / "none", read_only=True).best_step is None
    save(tmp_path / "one", {1: 0.5, 2: nothing, 3: nothing, 4: nothing})
    assert kept(tmp_path / "one") == ["1", "3", "4"]
    assert Checkpoints(tmp_path / "one", read_only=True).best_step == 1


def test_of_equal_scores_the_newest_is_the_best(tmp_path):
    save(tmp_path, {1: -0.5, 2: -0.5, 3: -0.7})
    assert Checkpoints(tmp_path, read_only=True).best_step == 2


@pytest.mark.parametrize(
    "like",
    [
        {"extra": jnp.zeros(3)},
        {"batch_stats": {"mean": jnp.zeros(5)}},
        {"params": {"w": jnp.zeros((3, 2)), "large": jnp.zeros((300, 41))}},
        {"params": {"w": jnp.zeros((3, 2))}},
    ],
)
def test_a_checkpoint_of_another_network_is_named_and_stays(tmp_path, like):
    save(tmp_path, {1: None, 2: 0.1})
    with pytest.raises(UserError, match=r"checkpoints/2 is of another network: \w+"):
        Checkpoints(tmp_path).restore_latest(make_state(0) | like)
    assert kept(tmp_path) == ["1", "2"]


def test_a_checkpoint_that_was_renamed_is_not_restored(tmp_path):
    save(tmp_path, {1: None})
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "checkpoints" / "5")
    with pytest.raises(UserError, match="checkpoints/5 is the checkpoint of step 1"):
        Checkpoints(tmp_path).restore_latest(make_state(0))


DAMAGES = {
    "removed": None,
    "emptied": lambda b: b"",
    "truncated": lambda b: b[: len(b) // 2],
    "shorter by a byte": lambda b: b[:-1],
    "longer": lambda b: b + b"more",
    "zeros": lambda b: bytes(len(b)),
    "a bit at the beginning": lambda b: flipped(b, 0.02),
    "a bit in the middle": lambda b: flipped(b, 0.5),
    "a bit near the end": lambda b: flipped(b, 0.9),
    "of another checkpoint": None,
}


def flipped(content, place):
    """The same with one bit changed."""
    changed = bytearray(content)
    changed[int(place * (len(content) - 1))] ^= 4
    return bytes(changed)


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_damaged_no_wrong_state_is_restored(tmp_path, damage, capfd):
    """Every file of a checkpoint in turn: either the exact state, or an error of one line."""
    save(tmp_path, {1: 0.1, 2: 0.5})
    found = 0
    for path in sorted(p for p in (tmp_path / "checkpoints" / "2").rglob("*") if p.is_file()):
        content = path.read_bytes()
        other = tmp_path / "checkpoints" / "1" / path.relative_to(tmp_path / "checkpoints" / "2")
        if damage == "removed":
            path.unlink()
        elif damage == "of another checkpoint":
            if not other.exists():  # files of data have names of their own
                continue
            path.write_bytes(other.read_bytes())
        else:
            path.write_bytes(DAMAGES[damage](content))
        for variables_only, like in ((False, make_state(0)), (True, variables(make_state(0)))):
            message = ""
            try:
                restored = Checkpoints(tmp_path, read_only=True).restore(2, like, variables_only)
            except DamagedError as error:
                message = str(error)
            if message:
                found += 1
                assert "\n" not in message
                assert f"{tmp_path}/checkpoints/2 is damaged (" in message
            else:
                assert_same(restored, variables(make_state(2)) if variables_only else make_state(2))
        path.write_bytes(content)
    assert found >= (1 if damage in ("longer", "of another checkpoint") else 4)
    gc.collect()  # what Orbax leaves behind complains when it is deleted
    assert capfd.readouterr().err == ""


def variables(state):
    return {key: state[key] for key in ("params", "batch_stats")}


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def test_training_resumes_before_a_damaged_checkpoint_and_keeps_it_aside(tmp_path, capsys):
    save(tmp_path, {1: 0.9, 2: None, 3: 0.5})
    truncate(data_file(tmp_path, 3))
    checkpoints = Checkpoints(tmp_path)
    step, state = checkpoints.restore_latest(make_state(0))
    assert step == 2
    assert_same(state, make_state(2))
    (note,) = capsys.readouterr().out.splitlines()
    assert note.startswith(f"NOTE: {tmp_path}/checkpoints/3 is damaged (")
    assert note.endswith(f"; set aside as {tmp_path}/checkpoints/3.damaged, resuming from step 2")
    for step in (3, 4, 5):  # saved again, and what is set aside is not cleared away
        checkpoints.save(step, make_state(step), config={})
    checkpoints.close()
    assert kept(tmp_path) == ["1", "3.damaged", "4", "5"]
    truncate(data_file(tmp_path, 5))
    (tmp_path / "checkpoints" / "5.damaged").mkdir()
    step, _ = Checkpoints(tmp_path).restore_latest(make_state(0))
    assert (step, kept(tmp_path)) == (4, ["1", "3.damaged", "4", "5.damaged", "5.damaged-2"])


def test_evaluation_passes_over_a_damaged_checkpoint_and_changes_nothing(tmp_path, capsys):
    save(tmp_path, {1: 0.5, 2: 0.9, 3: 0.7}, keep=3)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.restore_best(make_state(0))[0] == 2
    truncate(data_file(tmp_path, 2))
    step, state = checkpoints.restore_best(variables(make_state(0)), variables_only=True)
    assert step == 3  # the next best
    assert_same(state, variables(make_state(3)))
    assert f"NOTE: {tmp_path}/checkpoints/2 is damaged (" in capsys.readouterr().out
    assert kept(tmp_path) == ["1", "2", "3"]


def test_an_evaluation_whose_checkpoint_is_not_there_is_told(tmp_path, capsys):
    """As a full disk leaves it."""
    save(tmp_path, {1: 0.5, 2: 0.9})
    for step in (2, 3):
        (tmp_path / "best.json").write_text(f'{{"step": {step}}}')
        assert Checkpoints(tmp_path, read_only=True).restore_best(make_state(0))[0] == 2
    (note,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("NOTE: "))
    assert note == "NOTE: best.json is of step 3, which has no checkpoint; using step 2 instead"


def test_where_every_checkpoint_is_damaged_none_is_set_aside(tmp_path):
    save(tmp_path, {1: 0.5, 2: 0.9})
    for step in (1, 2):
        truncate(data_file(tmp_path, step))
    for read_only in (False, True):
        checkpoints = Checkpoints(tmp_path, read_only=read_only)
        restore = checkpoints.restore_best if read_only else checkpoints.restore_latest
        with pytest.raises(UserError) as error:
            restore(make_state(0))
        lines = str(error.value).splitlines()
        assert lines[0] == "no checkpoint can be restored:"
        assert [f"checkpoints/{step} is damaged" in line for step, line in zip((2, 1), lines[1:3], strict=True)]
    assert kept(tmp_path) == ["1", "2"]


def test_a_checkpoint_that_may_not_be_read_is_not_damaged(tmp_path, monkeypatch):
    save(tmp_path, {1: None, 2: None})
    checkpoints = Checkpoints(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints._manager, "restore", refuse)
    with pytest.raises(UserError, match=r"cannot read .*checkpoints/2: Permission denied"):
        checkpoints.restore_latest(make_state(0))
    assert kept(tmp_path) == ["1", "2"]


def test_only_the_variables_are_restored(tmp_path):
    """Whatever the rest of the state is: `restore` has to match it, or not to look at it."""
    save(tmp_path, {1: None})
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert_same(checkpoints.restore(1, variables(make_state(0)), variables_only=True), variables(make_state(1)))
    with pytest.raises(UserError, match="is of another network: params/more is absent there"):
        checkpoints.restore(1, {"params": {"more": jnp.zeros(2)}, "batch_stats": {}}, variables_only=True)


def test_a_network_without_batch_normalization(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(1) | {"batch_stats": {}}, config={})
    checkpoints.wait()
    restored = checkpoints.restore(1, variables(make_state(0)) | {"batch_stats": {}}, variables_only=True)
    assert_same(restored["params"], make_state(1)["params"])
    assert not restored["batch_stats"]


def test_an_empty_workdir(tmp_path):
    assert Checkpoints(tmp_path).restore_latest(make_state(0)) is None
    with pytest.raises(UserError, match="has no checkpoint: train it first"):
        Checkpoints(tmp_path / "other", read_only=True).restore_best(make_state(0))
    assert not (tmp_path / "other").exists()


def in_a_process(code, folder, limit="unlimited"):
    """Run code with a limit on the size of files; return what it prints, and what it prints on stderr."""
    shell = ["sh", "-c", f'ulimit -f {limit}; exec "$@"', "sh"]
    done = subprocess.run(
        [*shell, sys.executable, "-B", "-c", code, folder], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout, done.stderr


SAVE = """
import sys
from pathlib import Path
import jax.numpy as jnp
import numpy as np
from mtlflax.errors import UserError
from mtlflax.run.checkpoint import Checkpoints

values = np.random.default_rng(0).standard_normal((8, 300, 100)).astype(np.float32)
try:
    checkpoints = Checkpoints(Path(sys.argv[1]))
    checkpoints.save(1, {str(i): jnp.asarray(value) for i, value in enumerate(values)}, config={})
    checkpoints.close()
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("remarks", ["{0}", "{1} {0}", "{0} {1}"])
def test_what_the_system_says_is_found_among_other_remarks(remarks):
    spec = """[tensorstore_spec='{"driver":"zarr3","ocdbt":true}']"""
    said = "RESOURCE_EXHAUSTED: Failed to write: x/y: File too large " + remarks.format("[os_error_code='27']", spec)
    assert orbax_errors.refusal(ValueError(said)).reason == "File too large"
    assert orbax_errors.refusal(ValueError(said.replace("'27'", "'2'"))) is None


def test_a_checkpoint_that_cannot_be_written_is_one_message(tmp_path):
    """Whatever Orbax, its threads and TensorStore's would add; a limit on the size of files stands for a full disk."""
    said, errors = in_a_process(SAVE, tmp_path, limit=200)
    assert said.startswith(f"cannot write checkpoints to {tmp_path}/checkpoints: File too large\nFree some space"), said
    assert errors == ""
    assert in_a_process(SAVE, tmp_path) == ("", "")
    assert Checkpoints(tmp_path, read_only=True).latest_step == 1


LATE = """
import asyncio, sys, threading
from pathlib import Path
import tensorstore
from mtlflax.run.checkpoint import Checkpoints

Checkpoints(Path(sys.argv[1]))
promise, future = tensorstore.Promise.new()

async def write():
    await future

loop = asyncio.new_event_loop()
task = loop.create_task(write())
loop.call_later(0.05, loop.stop)
loop.run_forever()
loop.close()
late = threading.Thread(target=lambda: promise.set_result(None))
late.start()
late.join()
print("ended")
"""


def test_what_a_failed_write_leaves_behind_is_not_reported_again(tmp_path):
    """Its event loop is closed; writes that end afterwards, in TensorStore's threads, would each print a traceback."""
    assert in_a_process(LATE, tmp_path) == ("ended\n", "")


def test_a_flipped_bit_is_found_in_every_array(tmp_path):
    """Whatever part of the file it is in, compressed or not: what is restored is what was saved, or an error."""
    save(tmp_path, {2: None})
    path = data_file(tmp_path, 2)
    content = path.read_bytes()
    refused = 0
    for place in np.linspace(0, 1, 40):
        path.write_bytes(flipped(content, place))
        try:
            assert_same(Checkpoints(tmp_path, read_only=True).restore(2, make_state(0)), make_state(2))
        except DamagedError:
            refused += 1
    assert refused > 30


def test_wrong_numbers_are_named(tmp_path):
    """As if memory had changed them between the network and the disk."""
    position = checksums.seal({"next_step": 1, "checksums": checksums.of_arrays(make_state(1))})
    checksums.check(position, make_state(1))
    with pytest.raises(ValueError, match="batch_stats/mean and 3 more is not what was saved: wrong checksum"):
        checksums.check(position, make_state(2))
    with pytest.raises(ValueError, match="numbers are not those that were saved"):
        checksums.check({**position, "next_step": 2}, make_state(1))
    checksums.check({"next_step": 1}, make_state(1))  # of an older version


def test_a_checkpoint_whose_evaluation_was_interrupted_gets_its_score_later(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(1), config={}, score=0.5)
    checkpoints.save(2, make_state(2), config={}, evaluated=False)
    checkpoints.save(2, make_state(2), config={}, evaluated=False)
    checkpoints.close()
    resumed = Checkpoints(tmp_path)
    assert (resumed.awaits_evaluation(1), resumed.awaits_evaluation(2)) == (False, True)
    assert resumed.best_step == 1
    step, state = resumed.restore_latest(make_state(0))
    resumed.save(step, state, config={}, score=0.7)
    assert not resumed.awaits_evaluation(2)
    resumed.close()
    again = Checkpoints(tmp_path)
    assert (again.best_step, again.awaits_evaluation(2)) == (2, False)
    assert_same(again.restore(2, make_state(0)), make_state(2))


def fail_once(monkeypatch, manager, name, number):
    method, failed = getattr(manager, name), []

    def fails(*args, **kwargs):
        if not failed:
            failed.append(number)
            raise OSError(number, "no answer")
        return method(*args, **kwargs)

    monkeypatch.setattr(manager, name, fails)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_does_not_answer_for_a_while_ends_no_run(tmp_path, monkeypatch, capsys, number):
    """Neither when a checkpoint is begun nor while it is written in the background."""
    monkeypatch.setattr(checkpoint, "_PAUSES", (0.01, 0.01))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(1), config={})
    checkpoints.wait()
    fail_once(monkeypatch, checkpoints._manager, "save", number)
    checkpoints.save(2, make_state(2), config={})
    checkpoints.wait()
    checkpoints.save(3, make_state(3), config={})
    fail_once(monkeypatch, checkpoints._manager, "wait_until_finished", number)
    checkpoints.wait()
    fail_once(monkeypatch, checkpoints._manager, "check_for_errors", number)
    checkpoints.check()
    assert capsys.readouterr().out.count("trying again in 0.01 s") == 3
    checkpoints.close()
    assert kept(tmp_path) == ["2", "3"]
    for step in (2, 3):
        assert_same(Checkpoints(tmp_path).restore(step, make_state(0)), make_state(step))


def test_a_disk_that_does_not_answer_any_more_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_PAUSES", (0.01, 0.01))
    checkpoints = Checkpoints(tmp_path)
    failing = mock.Mock(side_effect=OSError(errno.EIO, "Input/output error"))
    monkeypatch.setattr(checkpoints._manager, "save", failing)
    with pytest.raises(UserError, match=r"cannot write checkpoints to .*: Input/output error"):
        checkpoints.save(1, make_state(1), config={})
    assert failing.call_count == 3
