"""Files are written whole or not at all."""

import errno
import json
import math
import subprocess
import sys

import pytest

from mtlflax import files
from mtlflax.errors import UserError
from mtlflax.run import workdir


def test_json_is_written_whole_and_without_nan(tmp_path):
    files.write_json(tmp_path / "new" / "a.json", {"x": 1.0, "y": math.inf})
    content = json.loads((tmp_path / "new" / "a.json").read_text(), parse_constant=pytest.fail)
    assert content == {"x": 1.0, "y": None}
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.json"]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/results\.json"):
        files.write_json(tmp_path / "file" / "results.json", {})


# A limit on the size of files, in 512-byte blocks, stands for a full disk.
WRITE = "import sys, pathlib; from mtlflax import files; files.write_bytes(pathlib.Path(sys.argv[1]), b'x' * 100_000)"


@pytest.mark.parametrize("old", [b"whole", None])
def test_a_full_disk_leaves_the_old_file_and_no_partial_one(old, tmp_path):
    path = tmp_path / "map.png"
    if old is not None:
        path.write_bytes(old)
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 20; exec "$@"', "sh", sys.executable, "-B", "-c", WRITE, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"UserError: cannot write {path}: File too large\nFree some space" in done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"map.png": old} if old else {})


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "whole")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "whole")]


def test_names_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("n" * 255)
    files.write_bytes(path, b"1")
    assert path.read_bytes() == b"1"


def test_a_lock_is_held_by_one(tmp_path, capsys):
    with files.lock(tmp_path / "lock"):
        with pytest.raises(BlockingIOError), files.lock(tmp_path / "lock"):
            pytest.fail("held twice")
        with pytest.raises(UserError, match="another run is writing"), workdir.lock(tmp_path):
            pytest.fail("held twice")
    with files.lock(tmp_path / "lock"), pytest.raises(PermissionError):  # not mistaken for one of the lock's own
        raise PermissionError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_note(number, tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    entered = []
    with workdir.lock(tmp_path / "run"):
        entered.append("run")
    with files.lock(tmp_path / "lock", wait="waiting"):
        entered.append("cache")
    assert entered == ["run", "cache"]
    notes = capsys.readouterr().err.splitlines()
    assert [note.startswith("NOTE: ") and "cannot be locked (no locks here)" in note for note in notes] == [True] * 2


def test_a_system_without_fcntl(tmp_path):
    """As Windows: everything is imported, and a lock is a note."""
    code = """
import sys
from pathlib import Path
sys.modules["fcntl"] = None
import mtlflax.data.streets.cache, mtlflax.predict, mtlflax.train
from mtlflax.run import workdir
with workdir.lock(Path(sys.argv[1])):
    print("entered")
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout == "entered\n", done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"NOTE: {tmp_path}/lock cannot be locked")


def test_that_a_file_cannot_be_written_is_known_beforehand(tmp_path):
    files.check_writable(tmp_path / "new" / "a.json")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(UserError, match=r"cannot write .*new: it is a folder, give a file"):
        files.check_writable(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/a\.json: "):
        files.check_writable(tmp_path / "file" / "a.json")
