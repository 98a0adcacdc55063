"""Videos: what is written is read again, files that are none are named, and nothing half-done looks whole."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers.videos import add, frames, noise, write

from mtlflax.errors import UserError
from mtlflax.run import video_files


@pytest.mark.parametrize(("size", "kept"), [((48, 64), (48, 64)), ((47, 63), (46, 62))])
def test_what_is_written_is_read(tmp_path, size, kept):
    images = [np.full((*size, 3), (20 * i, 200, 250 - 20 * i), np.uint8) for i in range(9)]  # plain colors: kept well
    path = write(tmp_path / "x", images)
    assert [p.name for p in tmp_path.iterdir()] == ["x_a.mp4"]
    with video_files.Reader(path) as video:
        assert (video.frames_per_second, video.count, video.note) == (12, 9, "")
    found = frames(path)
    assert len(found) == 9
    for image, back in zip(images, found, strict=True):
        np.testing.assert_allclose(back.astype(int), image[: kept[0], : kept[1]], atol=4)  # red stays red


def test_files_that_are_no_videos_are_named(tmp_path, capfd):
    (tmp_path / "text.mp4").write_text("no video" * 100)
    whole = write(tmp_path / "x", noise(9))
    (tmp_path / "half.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for name in ("text.mp4", "half.mp4"):
        with pytest.raises(UserError, match=rf"{name}: is not a video that can be read, or is truncated"):
            video_files.Reader(tmp_path / name)
    with pytest.raises(UserError, match=r"missing\.mp4: no such file"):
        video_files.Reader(tmp_path / "missing.mp4")
    with pytest.raises(UserError, match="is a folder, not a video; for a folder of pictures give --images"):
        video_files.Reader(tmp_path)
    assert capfd.readouterr() == ("", "")  # nothing by OpenCV or FFmpeg


def test_the_rate_is_guessed_where_the_file_does_not_say(tmp_path, monkeypatch):
    path = write(tmp_path / "x", noise(2))

    real = cv2.VideoCapture

    class Silent:
        """It has one, and is none: Python's garbage collector crashes on subclasses of OpenCV's types."""

        def __init__(self, *given):
            self._capture = real(*given)

        def __getattr__(self, name):
            return getattr(self._capture, name)

        def get(self, what):
            return 0.0 if what == cv2.CAP_PROP_FPS else self._capture.get(what)

    monkeypatch.setattr(cv2, "VideoCapture", Silent)
    with video_files.Reader(path) as video:
        assert video.frames_per_second == 25
        assert "does not say how many frames a second has" in video.note


def test_after_an_error_what_was_written_can_be_played(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt), video_files.Writers(tmp_path / "x", 10) as writers:
        add(writers, noise(5), KeyboardInterrupt())
    assert [path.name for path in tmp_path.iterdir()] == ["x_a.partial.mp4"]
    assert len(frames(tmp_path / "x_a.partial.mp4")) == 5
    assert f"5 frames were written: {tmp_path}/x_a.partial.mp4" in capsys.readouterr().err


def test_an_earlier_video_stays_until_the_next_is_whole(tmp_path):
    path = write(tmp_path / "x", noise(3))
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), video_files.Writers(tmp_path / "x", 10) as writers:
        add(writers, noise(1), ZeroDivisionError())
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be written: look whether the folder is writable"):
        write(tmp_path / "no folder" / "x", noise(1))


def test_a_full_disk_is_told():
    """OpenCV says nothing; here, no file may grow beyond 4 KiB."""
    program = """
import sys, tempfile, pathlib, resource, numpy as np
from mtlflax.errors import UserError
from mtlflax.run import video_files
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
rng = np.random.default_rng(0)
folder = pathlib.Path(tempfile.mkdtemp())
try:
    with video_files.Writers(folder / "x", 10) as writers:
        for _ in range(20):
            writers.write({"a": rng.integers(0, 256, (64, 64, 3), np.uint8)})
except UserError as error:
    print(error)
print([path.name for path in folder.iterdir()])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "frames of 20: is the disk full?" in done.stdout
    assert "['x_a.partial.mp4']" in done.stdout
