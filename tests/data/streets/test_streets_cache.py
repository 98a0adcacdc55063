"""The cache of rendered frames: contents, location, kills, concurrent runs, full disks."""

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.samples import same

from mtlflax.data.streets import Streets, cache
from mtlflax.errors import UserError


def test_cache_holds_the_same_samples_and_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    live = Streets("val", size=(32, 64), length=20, depth="metres")
    kept = Streets("val", size=(32, 64), length=20, depth="metres", cache=str(tmp_path))
    kept.prepare()
    assert "20/20" in capfd.readouterr().err
    assert all(same(live[i], kept[i]) for i in range(20))
    calls = []
    monkeypatch.setattr(cache, "_render", lambda *arguments: calls.append(arguments))
    again = Streets("val", size=(32, 64), length=20, cache=str(tmp_path))
    again.prepare()
    assert calls == []
    again = pickle.loads(pickle.dumps(again))
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda i: again[i]["image"], range(20)))
    assert all(np.array_equal(image, live[i]["image"]) for i, image in enumerate(images))
    assert all(image.flags.writeable for image in images)
    folder = next(tmp_path.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == ["frames.npy", "lock"]
    folders = {
        cache.Key("val", (32, 64), 0, 20).folder,
        cache.Key("train", (32, 64), 0, 20).folder,
        cache.Key("val", (64, 32), 0, 20).folder,
        cache.Key("val", (32, 64), 1, 20).folder,
        cache.Key("val", (32, 64), 0, 21).folder,
    }
    assert len(folders) == 5


def test_default_folder_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MTLFLAX_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache.default_folder() == Path("/a/streets")
    monkeypatch.delenv("MTLFLAX_CACHE")
    assert cache.default_folder() == Path("/b/mtlflax/streets")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.default_folder() == Path.home() / ".cache/mtlflax/streets"


# Read from stdin, so there is neither a file that worker processes could import nor a __main__ guard.
_SCRIPT = """
import sys
from mtlflax.data.streets import Streets
source = Streets("train", size=(48, 96), length=80, cache=sys.argv[1])
print(int(source[79]["image"].sum()))
"""


def _start(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(_SCRIPT)
    process.stdin.close()
    process.stdin = None
    return process


def _wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def test_cache_survives_a_kill_and_two_runs_at_once(tmp_path: Path):
    folder = tmp_path / cache.Key("train", (48, 96), 0, 80).folder
    done = folder / "done.part"
    first = _start(tmp_path)
    _wait_for(lambda: done.exists() and any(done.read_bytes()))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (folder / "frames.npy").exists()
    rendered = sum(done.read_bytes())
    assert 0 < rendered < 80

    # Of two runs at once, one resumes from there and the other waits for it.
    processes = [_start(tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    expected = str(int(Streets("train", size=(48, 96))[79]["image"].sum()))
    assert [out.strip() for out, _ in outputs] == [expected, expected]
    waited, resumed = sorted((error for _, error in outputs), key=lambda error: "rendering streets" in error)
    assert f": {rendered}/80" in resumed
    assert "waiting" not in resumed
    assert "waiting" in waited
    assert "rendering streets" not in waited
    kept = Streets("train", size=(48, 96), length=80, cache=str(tmp_path))
    live = Streets("train", size=(48, 96))
    assert all(same(kept[i], live[i]) for i in range(0, 80, 7))


def test_errors_of_writing_name_the_file_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=rf"{file}.*MTLFLAX_CACHE"):
        Streets("val", size=(32, 64), length=2, cache=str(file)).prepare()

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"No space left.*MTLFLAX_CACHE"):
        Streets("val", size=(32, 64), length=2, cache=str(tmp_path)).prepare()
    monkeypatch.undo()
    Streets("val", size=(32, 64), length=2, cache=str(tmp_path)).prepare()
