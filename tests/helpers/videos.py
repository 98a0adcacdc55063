"""Videos, as lists of frames."""

from pathlib import Path

import cv2
import numpy as np

from mtlflax.run import video_files


def frames(path: Path) -> list[np.ndarray]:
    """Read all frames of a video, RGB."""
    found = []
    with video_files.Reader(path) as video:
        while (frame := video.read()) is not None:
            found.append(frame)
    return found


def noise(count: int, size: tuple[int, int] = (96, 192)) -> list[np.ndarray]:
    """Make frames of soft noise that moves by a sixteenth of the width from each to the next."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    return [cv2.resize(np.roll(coarse, i, 1), size[::-1]) for i in range(count)]


def write(stem: Path, images: list[np.ndarray], rate: float = 12.0) -> Path:
    """Write a video, stem_a.mp4."""
    with video_files.Writers(stem, rate) as writers:
        add(writers, images)
    return writers.paths[0]


def add(writers: video_files.Writers, images: list[np.ndarray], end: BaseException | None = None) -> None:
    """Add frames, and end with an exception."""
    for image in images:
        writers.write({"a": image})
    if end is not None:
        raise end
