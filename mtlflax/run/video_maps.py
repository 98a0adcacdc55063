"""The maps of a video's frames, drawn and written as videos, while the frames after them are read and predicted."""

import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mtlflax.errors import UserError
from mtlflax.run import in_order, picture_files
from mtlflax.run.map_files import draw_maps
from mtlflax.run.predictor import Picture, Run, batches, make_predict_batch, scaled_for
from mtlflax.run.video_files import Reader, Writers

_THREADS = 4  # that draw


def write(video: Reader, run: Run, stem: Path, batch_size: int, focal_baseline: float) -> tuple[int, list[Path]]:
    """Write the maps in colors of a video.

    Args:
        video: what reads it.
        run: what predicts.
        stem: how the paths of the videos begin, to which the names of the maps are added.
        batch_size: frames that are predicted at a time.
        focal_baseline: turns disparity into metres; see `map_files.draw_maps`.

    Returns:
        The number of frames, and the videos' paths.

    Raises:
        UserError: no frame can be read, or the frames are too elongated.
    """

    def read(_: int) -> Picture | None:
        pixels = video.read()
        if pixels is None:
            return None
        picture_files.check_aspect(video.path, pixels.shape[:2])
        return Picture(video.path, pixels, scaled_for(run, pixels))

    ahead = batch_size + _THREADS
    bar = tqdm(total=video.count or None, unit="frame", disable=not sys.stderr.isatty())
    with (
        bar,
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(_THREADS) as drawers,
        Writers(stem, video.frames_per_second) as written,
    ):
        frames = _until_none(in_order.mapped(reader, read, itertools.count(), ahead=ahead))
        drawings = _drawings(run, frames, batch_size, focal_baseline)
        for maps in in_order.mapped(drawers, lambda drawing: drawing(), drawings, ahead=ahead):
            written.write(maps)
            bar.update()
            if not sys.stderr.isatty() and written.frames % 100 == 0:
                print(f"{written.frames} frames done", file=sys.stderr, flush=True)
    if not written.frames:
        raise UserError(f"{video.path}: has no frame that can be read")
    return written.frames, written.paths


def _until_none(pictures: Iterable[Picture | None]) -> Iterator[Picture]:
    for picture in pictures:
        if picture is None:
            return
        yield picture


def _drawings(
    run: Run, frames: Iterable[Picture], batch_size: int, focal_baseline: float
) -> Iterator[Callable[[], dict[str, np.ndarray]]]:
    """Yield, for each frame, what waits for its predictions and draws them: name → uint8 [H, W, 3]."""
    predict = make_predict_batch(run, batch_size)

    def draw(pixels: np.ndarray, maps: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        drawn = draw_maps(pixels, maps(), run.network.tasks, focal_baseline)
        return {name: values for name, values in drawn.items() if values.ndim == 3 and values.dtype == np.uint8}

    for batch in batches(frames, batch_size):
        for frame, maps in zip(batch, predict([frame.small for frame in batch]), strict=True):
            yield functools.partial(draw, frame.pixels, maps)
