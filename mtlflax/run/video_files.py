"""Videos: the frames of one, one after another, and maps drawn for each frame, as videos of their own."""

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from mtlflax.errors import UserError

# FFmpeg prints what is said here in errors. It is read when the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
_CODEC = cv2.VideoWriter.fourcc(*"mp4v")  # MPEG-4: every build of OpenCV writes it; VP9 took 50 times as long
_USUAL_RATE = 25.0  # frames per second, where a file does not say


class Reader:
    """The frames of a video file, upright as its metadata says; a context manager.

    Attributes:
        path: of the file.
        frames_per_second: of the file; 25 if it does not say.
        count: of the frames, as far as the file says, or 0. Some files say it wrong.
        note: what the user should know about how it is read; "" if nothing.
    """

    def __init__(self, path: Path) -> None:
        """Open a file; UserError if there is none, or it is no video that FFmpeg knows."""
        if path.is_dir():
            raise UserError(f"{path}: is a folder, not a video; for a folder of pictures give --images")
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        self.path = path
        with _without_messages():
            self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise UserError(f"{path}: is not a video that can be read, or is truncated")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        known = math.isfinite(rate) and 0 < rate <= 1000
        self.frames_per_second = rate if known else _USUAL_RATE
        self.note = "" if known else f"it does not say how many frames a second has: taken to be {_USUAL_RATE:g}"
        self.count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def read(self) -> np.ndarray | None:
        """Return the next frame, uint8 [H, W, 3] RGB, or None after the last."""
        there, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if there else None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()


class Writers:
    """Videos in the making, one for each map: `stem` + `_segmentation.mp4` and so on; a context manager.

    Until all frames are written, a file is called `….partial.mp4`. If an error or Ctrl-C ends the work, it keeps that
    name, and can be played.
    """

    def __init__(self, stem: Path, frames_per_second: float) -> None:
        self._stem, self._rate = stem, frames_per_second
        self._writers: dict[str, cv2.VideoWriter] = {}
        self.frames = 0

    @property
    def paths(self) -> list[Path]:
        """The finished files."""
        return [self._path(name) for name in self._writers]

    def write(self, maps: Mapping[str, np.ndarray]) -> None:
        """Add a frame to each video.

        Args:
            maps: name → uint8 [H, W, 3] RGB, of one size. Of odd sizes, the last row or column is left out.
        """
        for name, values in maps.items():
            if name not in self._writers:
                self._writers[name] = self._open(name, (values.shape[1], values.shape[0]))
            self._writers[name].write(cv2.cvtColor(values, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for writer in self._writers.values():
            writer.release()
        if kind is not None:
            if self.frames:
                partial = ", ".join(str(self._partial(name)) for name in self._writers)
                print(f"{self.frames} frames were written: {partial}", file=sys.stderr)
            return
        for name in self._writers:
            self._check(name)
            self._partial(name).replace(self._path(name))

    def _path(self, name: str) -> Path:
        return self._stem.with_name(f"{self._stem.name}_{name}.mp4")

    def _partial(self, name: str) -> Path:
        return self._stem.with_name(f"{self._stem.name}_{name}.partial.mp4")

    def _open(self, name: str, size: tuple[int, int]) -> cv2.VideoWriter:
        path = self._partial(name)
        with _without_messages():
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, _CODEC, self._rate, size)
        if not writer.isOpened():
            raise UserError(f"{path}: cannot be written: look whether the folder is writable and the disk has room")
        return writer

    def _check(self, name: str) -> None:
        """Raise UserError unless a file holds all its frames: OpenCV does not tell that a disk is full."""
        path = self._partial(name)
        with _without_messages():
            capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        held = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if held != self.frames:
            raise UserError(f"{path}: holds {held} frames of {self.frames}: is the disk full?")


@contextmanager
def _without_messages() -> Iterator[None]:
    """Keep OpenCV from printing what is said here in errors."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
