"""Videos as a user predicts them, beside pictures of the same frames."""

import functools

import cv2
import numpy as np
import pytest
from helpers.commands import call
from helpers.trained import tiny_run
from helpers.videos import frames, noise, write

from mtlflax import predict
from mtlflax.run import video_files


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setattr(predict, "load", functools.cache(predict.load))  # which takes seconds
        yield tiny_run(tmp_path_factory.mktemp("predict_video"))


@pytest.fixture
def drive(tmp_path):
    """A video of 11 frames: not a multiple of the batch."""
    return write(tmp_path / "drive", noise(11)).rename(tmp_path / "drive.mp4")


def test_each_frame_has_the_maps_that_its_picture_has(workdir, drive, tmp_path):
    given = ["--workdir", str(workdir), "--out", str(tmp_path / "out")]
    said = call([*given, f"--video={drive}"], predict.main)
    assert "11 frames done: " in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "drive_depth_color.mp4",
        "drive_overlay.mp4",
        "drive_segmentation.mp4",
    ]
    (tmp_path / "photos").mkdir()
    for i, frame in enumerate(frames(drive)):
        cv2.imwrite(str(tmp_path / "photos" / f"{i:02}.png"), frame[..., ::-1])
    call([*given, f"--images={tmp_path / 'photos'}"], predict.main)
    for name in ("depth_color", "overlay", "segmentation"):
        video = frames(tmp_path / "out" / f"drive_{name}.mp4")
        assert len(video) == 11
        for i, frame in enumerate(video):
            picture = cv2.imread(str(tmp_path / "out" / f"{i:02}_{name}.png"))[..., ::-1]
            errors = [np.abs(frame.astype(int) - np.roll(picture, shift, 1)).mean() for shift in (0, 12)]
            assert errors[0] < 12, name  # the codec's
            assert errors[0] < errors[1] / 2 or errors[1] < 3, name  # this frame, and no other


def test_fewer_frames_than_the_file_says(workdir, drive, tmp_path):
    """As in an AVI file that was cut off, whose beginning says how many there were."""
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (192, 96))
    for frame in frames(drive):
        writer.write(frame)
    writer.release()
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(data[: len(data) // 2])
    said = call(
        ["--workdir", str(workdir), "--out", str(tmp_path / "out"), f"--video={tmp_path / 'a.avi'}"], predict.main
    )
    assert "says that it has 11 frames, no more could be read" in said
    assert 3 <= len(frames(tmp_path / "out" / "a_overlay.mp4")) <= 8


def test_mistakes(workdir, drive, tmp_path):
    given = ["--workdir", str(workdir), "--out", str(tmp_path / "out")]
    assert "no such file" in call([*given, f"--video={tmp_path / 'x.mp4'}"], predict.main, code=1)
    assert "--images --video is required" in call(given, predict.main, code=2)
    for flag in ("--raw", "--official"):
        assert "are for --images" in call([*given, f"--video={drive}", flag], predict.main, code=2)
    narrow = write(tmp_path / "narrow", noise(2, (16, 320)))
    assert "16×320 is too elongated" in call([*given, f"--video={narrow}"], predict.main, code=1)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_an_error_in_the_middle_leaves_what_was_written(workdir, drive, tmp_path, monkeypatch):
    write = video_files.Writers.write

    def failing(self, maps):
        if self.frames == 6:
            raise KeyboardInterrupt
        write(self, maps)

    monkeypatch.setattr(video_files.Writers, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        predict.main(["--workdir", str(workdir), "--out", str(tmp_path / "out"), f"--video={drive}"])
    assert len(frames(tmp_path / "out" / "drive_overlay.partial.mp4")) == 6
