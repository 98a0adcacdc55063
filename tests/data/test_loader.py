"""The pipeline: the same examples whatever reads them, every frame evaluated once, clear errors."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.batches import FIELDS
from helpers.frames import Frames

from mtlflax.data.loader import evaluation_batches, train_batches
from mtlflax.data.transforms import Augment
from mtlflax.errors import UserError

SETTINGS = {"batch_size": 4, "seed": 3, "augment": Augment(fields=FIELDS)}


def take(count, source=None, **options):
    with train_batches(source or Frames(10), FIELDS, **{"num_threads": 0, **SETTINGS, **options}) as batches:
        return [next(batches) for _ in range(count)]


def assert_same(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def frames(batch):
    return batch["segmentation"].min(axis=(1, 2)).tolist()


def test_batches():
    for batch in take(2, num_threads=2):
        assert list(batch) == ["image", "segmentation", "depth", "focal_baseline"]
        assert [batch[key].shape for key in batch] == [
            (4, 8, 16, 3),
            (4, 8, 16),
            (4, 8, 16, 1),
            (4,),
        ]
        assert [str(batch[key].dtype) for key in batch] == ["uint8", "uint8", "float32", "float32"]
        for value in batch.values():
            assert value.flags.owndata
            assert value.flags.c_contiguous
            value[:] = 0  # writable


def test_a_batch_of_one_is_a_copy_too():
    source = Frames(3)
    sample = source[0]
    sample["image"].setflags(write=False)
    with train_batches([sample], FIELDS, batch_size=1, seed=0) as batches:
        next(batches)["image"][:] = 0


def test_every_epoch_has_every_frame_in_another_order():
    order = [frame for batch in take(10) for frame in frames(batch)]
    epochs = [order[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_seeds():
    assert_same(take(3), take(3))
    other = take(3, seed=4)
    assert any((a["image"] != b["image"]).any() for a, b in zip(take(3), other, strict=True))
    # Frames that come again are augmented anew.
    once, again = (take(1, Frames(1), batch_size=1, start_step=step)[0] for step in (0, 1))
    assert (once["image"] != again["image"]).any()


def test_resuming_at_any_step():
    whole = take(9)
    for step in range(9):
        assert_same(take(9 - step, start_step=step), whole[step:])
    assert_same(take(1, start_step=10**9), take(1, start_step=10**9, num_threads=3))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_same_global_batches(count):
    for step, whole in enumerate(take(6)):
        parts = [take(1, start_step=step, process_index=index, process_count=count)[0] for index in range(count)]
        for index, part in enumerate(parts):
            for key in whole:
                np.testing.assert_array_equal(part[key], np.split(np.asarray(whole[key]), count)[index])


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (4, 4), (4, 1), (2, 8)])
def test_threads_change_nothing(threads, prefetch):
    assert_same(take(6, num_threads=threads, prefetch=prefetch), take(6))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_worker_processes_change_nothing(workers):
    assert_same(take(5, num_workers=workers, start_step=2), take(7)[2:])


def test_a_source_smaller_than_the_batch():
    batch = take(1, Frames(3), batch_size=8)[0]
    assert sorted(frames(batch)[:3]) == [0, 1, 2]
    assert len(batch["image"]) == 8


@pytest.mark.parametrize("length", [1, 4, 7, 8, 9])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_frame_is_evaluated_once(length, count):
    parts = [
        list(evaluation_batches(Frames(length), FIELDS, batch_size=4, process_index=index, process_count=count))
        for index in range(count)
    ]
    assert {len(part) for part in parts} == {-(-length // 4)}
    seen = []
    for batch in (batch for part in parts for batch in part):
        assert len(batch["image"]) == len(batch["name"]) == 4 // count
        assert batch["mask"].dtype == np.float32
        for row, name in enumerate(batch["name"]):
            if batch["mask"][row]:
                seen.append(name)
                sample = Frames(length)[int(name.removeprefix("frame_"))]
                for key in ("image", "segmentation", "depth", "focal_baseline"):
                    np.testing.assert_array_equal(batch[key][row], sample[key])
            else:
                assert name == ""
                assert (batch["segmentation"][row] == 255).all()
                assert not batch["depth"][row].any()
                assert not batch["image"][row].any()
    assert sorted(seen) == sorted(f"frame_{index}" for index in range(length))


@pytest.mark.parametrize("options", [{"num_threads": 0}, {"num_threads": 4}, {"num_workers": 1}])
def test_errors_of_reading_reach_the_user(options):
    with pytest.raises(UserError) as error:
        take(10, Frames(10, broken=5), **options)
    assert str(error.value) == "frame_5.png: is truncated"
    if "num_workers" not in options:
        batches = evaluation_batches(Frames(10, broken=5), FIELDS, batch_size=4, **options)
        with pytest.raises(UserError, match=r"frame_5\.png: is truncated"):
            list(batches)
        assert list(batches) == []  # it is closed


@pytest.mark.parametrize("options", [{"num_threads": 0}, {"num_threads": 4}, {"num_workers": 1}])
def test_frames_that_cannot_be_read_may_be_left_out(options, capfd):
    """The next one stands for it in training, wherever it is read; in evaluation it counts for nothing."""
    expected = take(10, Frames(10))
    found = take(10, Frames(10, broken=5), on_error="skip", **options)
    numbers = [[int(n) for batch in batches for n in batch["focal_baseline"]] for batches in (expected, found)]
    assert 5 in numbers[0]
    assert numbers[1] == [6 if n == 5 else n for n in numbers[0]]
    said = capfd.readouterr().err
    assert said.count("NOTE: a frame is left out: frame_5.png: is truncated") == 1
    if "num_workers" not in options:
        batches = list(evaluation_batches(Frames(10, broken=5), FIELDS, batch_size=4, on_error="skip", **options))
        mask = np.concatenate([batch["mask"] for batch in batches])
        assert mask.tolist() == [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0]
        names = [name for batch in batches for name in batch["name"]]
        assert names[4:8] == ["frame_4", "", "frame_6", "frame_7"]
        assert (batches[1]["segmentation"][1] == 255).all()


def test_none_that_can_be_read(capfd):
    with pytest.raises(UserError, match="none of 1 frames can be read"):
        take(1, Frames(1, broken=0), on_error="skip")
    capfd.readouterr()


def test_users_mistakes():
    with pytest.raises(UserError, match=r"batch_size is 6: .* multiple of 4"):
        train_batches(Frames(9), FIELDS, batch_size=6, seed=0, process_count=4)
    with pytest.raises(UserError, match="seed is -1"):
        train_batches(Frames(9), FIELDS, batch_size=4, seed=-1)
    with pytest.raises(UserError, match="batch_size is 0"):
        evaluation_batches(Frames(9), FIELDS, batch_size=0)
    for make in (train_batches, evaluation_batches):
        with pytest.raises(UserError, match="no frames"):
            make(Frames(0), FIELDS, batch_size=4, **({"seed": 0} if make is train_batches else {}))
    with pytest.raises(UserError, match=r"different sizes \(\(8, 16\), \(10, 16\)\): set data.size"):
        take(1, Frames(10, sizes=(8, 10)), augment=None)


def test_closing_stops_the_threads():
    before = set(threading.enumerate())
    batches = train_batches(Frames(10), FIELDS, **SETTINGS, num_threads=3)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
    for thread in threading.enumerate():
        if thread.name.startswith("grain-prefetch"):
            thread.join(5)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("ending", ["", "raise KeyboardInterrupt", "batches.close()"])
def test_programs_end_quietly(ending):
    # Left open, interrupted or closed: no hanging threads, no tracebacks of Grain's.
    program = f"""
        import numpy as np
        from mtlflax.data.loader import train_batches
        from mtlflax.data.source import Image
        image = np.zeros((8, 8, 3), np.uint8)
        batches = train_batches([{{"image": image, "name": "a"}}] * 5, {{"image": Image()}}, batch_size=2, seed=0)
        next(batches)
        {ending}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "Interrupt" in ending:
        assert done.stderr.count("Traceback") == 1
        assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    else:
        assert (done.returncode, done.stderr) == (0, "")


def alive(pid):
    """Whether a process runs: one that ended and is not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def children(pid):
    return {
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    }


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks processes up as Linux has them")
def test_worker_processes_do_not_outlive_a_killed_program(tmp_path):
    script = tmp_path / "program.py"  # a file, since spawned processes import it
    script.write_text(
        textwrap.dedent("""
            import time
            from helpers.batches import FIELDS
            from helpers.frames import Frames
            from mtlflax.data.loader import train_batches
            if __name__ == "__main__":
                batches = train_batches(Frames(10), FIELDS, batch_size=2, seed=0, num_workers=2)
                next(batches), next(batches)
                print("reading", flush=True)
                time.sleep(600)
        """)
    )
    tests = Path(__file__).parents[1]
    program = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert program.stdout.readline() == "reading\n"
    started = children(program.pid)
    assert len(started) >= 2
    program.kill()
    program.wait()
    program.stdout.close()
    end = time.monotonic() + 30
    while any(map(alive, started)) and time.monotonic() < end:
        time.sleep(0.05)
    left = [pid for pid in started if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
