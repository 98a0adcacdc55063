"""Predict maps from pictures.

    python -m mtlflax.predict --workdir=DIR --images='photos/*.png' --out=DIR

Files written for each picture NAME, at the picture's own size, as far as the run's tasks give them:

    NAME_segmentation.png   8-bit RGB    the classes in their colors
    NAME_trainids.png       8-bit gray   the classes' ids (Cityscapes: train ids 0 to 18)
    NAME_depth.png          16-bit gray  metres × 256; 0 = unknown, or beyond 255 m
    NAME_depth_color.png    8-bit RGB    the depth in colors, near to far
    NAME_overlay.png        8-bit RGB    the picture under the class colors (without classes: the depth's)
    NAME_depth_metres.npy   float32      with --raw: metres; infinity = infinitely far

Pictures of more than 8 bits are scaled to 8 by their range; a NOTE says where the range had to be guessed.

A task of your own is written as NAME_<task>.png, in its colors, unless it says otherwise. If two pictures have the same
name, the folders or suffixes of all pictures become part of NAME.

    python -m mtlflax.predict --workdir=DIR --video=drive.mp4 --out=DIR

With --video, what is in colors above is written as videos of the frames' size and rate, NAME_overlay.mp4 and so on
(MPEG-4, which loses detail; for ids and metres, give frames as pictures).

    python -m mtlflax.predict --official --workdir=DIR --images=CITYSCAPES/leftImg8bit/test --out=DIR

With --official, pictures named as Cityscapes' are looked for, in a folder and in the folders in it, and nothing but
their label ids is written, as CITY_SEQUENCE_FRAME_pred_labelIds.png: what the evaluator and the test server take.
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mtlflax import command_line
from mtlflax.errors import UserError
from mtlflax.files import plain_errors
from mtlflax.run import compiled, in_order, official, picture_files, video_files, video_maps
from mtlflax.run.map_files import FOCAL_BASELINE, write_maps
from mtlflax.run.predictor import Picture, Run, batches, load, make_predict_batch, make_predict_train_ids, scaled_for

_THREADS = 4  # that read, and as many that write


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit code: 1 if a picture was skipped."""
    options = _parse(argv)
    compiled.keep()
    return _video(options) if options.video else _pictures(options)


def _video(options: argparse.Namespace) -> int:
    """Write the maps of a video; return the exit code."""
    with video_files.Reader(options.video) as video:
        run = load(options.workdir)
        with plain_errors(options.out):
            options.out.mkdir(parents=True, exist_ok=True)
        if video.note:
            print(f"NOTE: {options.video}: {video.note}", file=sys.stderr)
        stem = options.out / options.video.stem
        frames, paths = video_maps.write(video, run, stem, options.batch_size, options.focal_baseline)
    if frames < video.count:
        print(f"NOTE: {options.video} says that it has {video.count} frames, no more could be read", file=sys.stderr)
    print(f"{frames} frame{'' if frames == 1 else 's'} done: {', '.join(map(str, paths))}")
    return 0


def _pictures(options: argparse.Namespace) -> int:
    """Write the maps of pictures; return the exit code."""
    naming = official if options.official else picture_files
    found, passed_over = naming.find(str(options.images))
    names = naming.output_names(found)
    picture_files.check_out(options.out, found, names)
    if options.official:
        official.check_folder(options.out, [name.name for name in names])
    run = load(options.workdir)
    with plain_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    stems = {path: options.out / name for path, name in zip(found, names, strict=True)}
    prepare, writes = (_official if options.official else _maps)(run, options, stems)
    skipped = 0
    bar = tqdm(total=len(found), unit="picture", disable=not sys.stderr.isatty())

    def read(path: Path) -> Picture | UserError:
        try:
            picture = picture_files.read(path)
        except UserError as error:
            return error
        return Picture(path, picture.pixels, prepare(picture.pixels), picture.note)

    def write(write_maps: Callable[[], None], path: Path) -> None:
        write_maps()
        bar.update()
        if not sys.stderr.isatty():
            print(f"{path} done", file=sys.stderr, flush=True)

    def readable(pictures: Iterable[Picture | UserError]) -> Iterator[Picture]:
        nonlocal skipped
        for picture in pictures:
            if isinstance(picture, UserError):
                bar.write(f"skipped {picture}", file=sys.stderr)
                skipped += 1
                continue
            if picture.note:
                bar.write(f"NOTE: {picture.path}: {picture.note}", file=sys.stderr)
            yield picture

    # Pictures are read, and maps drawn and written, in threads, while the network runs.
    with bar, ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as writers:
        written = in_order.Last(writers, 2 * options.batch_size)
        pictures = readable(in_order.mapped(readers, read, found, ahead=2 * options.batch_size + _THREADS))
        for batch in batches(pictures, 1 if options.official else options.batch_size):
            for picture, write_maps in zip(batch, writes(batch), strict=True):
                written.add(write, write_maps, picture.path)
        written.wait()
    done = len(found) - skipped
    summary = f"{done} picture{'' if done == 1 else 's'} done, {skipped} skipped; maps in {options.out}"
    print(f"{summary} ({picture_files.describe(passed_over)})" if passed_over else summary)
    return 1 if skipped else 0


_Prepare = Callable[[np.ndarray], np.ndarray]  # a picture → what the network sees
_Writes = Callable[[Sequence[Picture]], list[Callable[[], None]]]  # a batch → for each picture, what writes its files


def _official(run: Run, options: argparse.Namespace, stems: Mapping[Path, Path]) -> tuple[_Prepare, _Writes]:
    """What writes label ids in Cityscapes' official format."""
    train_ids = make_predict_train_ids(run)

    def writes(batch: Sequence[Picture]) -> list[Callable[[], None]]:
        (picture,) = batch
        return [functools.partial(official.write, options.out, stems[picture.path].name, train_ids(picture.pixels))]

    return lambda pixels: pixels, writes


def _maps(run: Run, options: argparse.Namespace, stems: Mapping[Path, Path]) -> tuple[_Prepare, _Writes]:
    """What writes all maps of the tasks."""
    predict = make_predict_batch(run, options.batch_size)

    def writes(batch: Sequence[Picture]) -> list[Callable[[], None]]:
        def write(picture: Picture, maps: Callable[[], dict[str, np.ndarray]]) -> None:
            stem, tasks = stems[picture.path], run.network.tasks
            write_maps(picture.pixels, maps(), tasks, stem, options.focal_baseline, raw=options.raw)

        maps = predict([picture.small for picture in batch])
        return [functools.partial(write, *each) for each in zip(batch, maps, strict=True)]

    return functools.partial(scaled_for, run), writes


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = command_line.Parser("mtlflax.predict", __doc__)
    path = command_line.path
    parser.add_argument("--workdir", type=path, required=True, metavar="DIR", help="the run to predict with")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--images", type=path, help="a folder, or a quoted pattern: 'photos/*.png'")
    given.add_argument("--video", type=path, metavar="FILE", help="a video, of any kind that FFmpeg reads")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="where the maps are written")
    parser.add_argument(
        "--focal_baseline",
        type=_positive,
        default=FOCAL_BASELINE,
        metavar="NUMBER",
        help="focal length (in pixels, of the picture scaled to a height of 1024 pixels) × the training set's stereo "
        "baseline (in metres): turns a predicted disparity into metres. Default: %(default)s, of Cityscapes' first "
        "camera. Networks trained on metres or inverse metres do not use it",
    )
    parser.add_argument("--batch_size", type=int, default=4, metavar="N", help="pictures at a time (default: 4)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--raw", action="store_true", help="write NAME_depth_metres.npy too")
    kind.add_argument("--official", action="store_true", help="write label ids for Cityscapes' evaluator, nothing else")
    options = parser.parse_args(argv)
    if options.video and (options.raw or options.official):
        parser.error("--raw and --official are for --images")
    if options.batch_size < 1:
        parser.error(f"--batch_size={options.batch_size}: must be at least 1")
    return options


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


if __name__ == "__main__":
    command_line.run(main)
