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
name, their folders or suffixes become part of NAME.

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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mtlflax import command_line
from mtlflax.data import photo
from mtlflax.data.source import Image
from mtlflax.errors import UserError
from mtlflax.files import plain_errors
from mtlflax.run import compiled, in_order, official, picture_files
from mtlflax.run.map_files import FOCAL_BASELINE, write_maps
from mtlflax.run.predictor import Run, load, make_predict, make_predict_train_ids, scaled

# Pictures longer than this many times their width, or the other way round, are skipped: memory grows with the aspect.
_MAX_ASPECT = 8
_THREADS = 4  # that read, and as many that write


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit code: 1 if a picture was skipped."""
    options = _parse(argv)
    compiled.keep()
    naming = official if options.official else picture_files
    found, passed_over = naming.find(str(options.images))
    names = naming.output_names(found)
    _check_out(options.out, found, names)
    if options.official:
        official.check_folder(options.out, [name.name for name in names])
    run = load(options.workdir)
    with plain_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    prepare, predict = (_official if options.official else _maps)(run, options)
    skipped = 0
    bar = tqdm(total=len(found), unit="picture", disable=not sys.stderr.isatty())

    def read(path: Path) -> _Picture | UserError:
        try:
            picture = _read(path)
        except UserError as error:
            return error
        return _Picture(path, picture.pixels, prepare(picture.pixels), picture.note)

    def write(write_maps: Callable[[], None], path: Path) -> None:
        write_maps()
        bar.update()
        if not sys.stderr.isatty():
            print(f"{path} done", file=sys.stderr, flush=True)

    def readable(pictures: Iterable[_Picture | UserError]) -> Iterator[_Picture]:
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
    name_of = dict(zip(found, names, strict=True))
    with bar, ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as writers:
        written = in_order.Last(writers, 2 * options.batch_size)
        pictures = readable(in_order.mapped(readers, read, found, ahead=2 * options.batch_size + _THREADS))
        for batch in _batches(pictures, 1 if options.official else options.batch_size):
            for picture, write_maps in zip(batch, predict(batch, name_of), strict=True):
                written.add(write, write_maps, picture.path)
        written.wait()
    done = len(found) - skipped
    summary = f"{done} picture{'' if done == 1 else 's'} done, {skipped} skipped; maps in {options.out}"
    print(f"{summary} ({picture_files.describe(passed_over)})" if passed_over else summary)
    return 1 if skipped else 0


class _Picture(NamedTuple):
    path: Path
    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    small: np.ndarray  # as the network sees it, uint8 [h, w, 3]
    note: str


_Prepare = Callable[[np.ndarray], np.ndarray]  # a picture → what the network sees
# A batch, and the names of their files → for each picture, what writes its files.
_Predict = Callable[[Sequence[_Picture], Mapping[Path, Path]], list[Callable[[], None]]]


def _official(run: Run, options: argparse.Namespace) -> tuple[_Prepare, _Predict]:
    """What writes label ids in Cityscapes' official format."""
    train_ids = make_predict_train_ids(run)

    def predict(batch: Sequence[_Picture], names: Mapping[Path, Path]) -> list[Callable[[], None]]:
        (picture,) = batch
        return [functools.partial(official.write, options.out, names[picture.path].name, train_ids(picture.pixels))]

    return lambda pixels: pixels, predict


def _maps(run: Run, options: argparse.Namespace) -> tuple[_Prepare, _Predict]:
    """What writes all maps of the tasks."""
    network, predict_batch = run.network, make_predict(run)
    image = network.fields["image"]
    aspect = image.aspect if isinstance(image, Image) else None

    def predict(batch: Sequence[_Picture], names: Mapping[Path, Path]) -> list[Callable[[], None]]:
        # A batch that is not full is filled up: a program is compiled for each number of pictures.
        rows = [picture.small for picture in batch]
        rows += rows[-1:] * ((options.batch_size - len(rows)) * (len(rows) > 1))
        maps = predict_batch(jnp.asarray(np.stack(rows)))  # under way: the writers wait for it
        fetched = functools.cache(lambda: jax.device_get(maps))

        def write(row: int) -> None:
            pixels, stem = batch[row].pixels, options.out / names[batch[row].path]
            of_picture = {task: values[row] for task, values in fetched().items()}
            write_maps(pixels, of_picture, network.tasks, stem, options.focal_baseline, raw=options.raw)

        return [functools.partial(write, row) for row in range(len(batch))]

    return functools.partial(scaled, size=network.size, aspect=aspect), predict


def _batches(pictures: Iterable[_Picture], size: int) -> Iterator[list[_Picture]]:
    """Neighbors that the network sees at one size, at most so many together."""
    batch: list[_Picture] = []
    for picture in pictures:
        if batch and (len(batch) == size or picture.small.shape != batch[0].small.shape):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = command_line.Parser("mtlflax.predict", __doc__)
    path = command_line.path
    parser.add_argument("--workdir", type=path, required=True, metavar="DIR", help="the run to predict with")
    parser.add_argument("--images", type=path, required=True, help="a folder, or a quoted pattern: 'photos/*.png'")
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


def _check_out(out: Path, found: Sequence[Path], names: Sequence[Path]) -> None:
    """Raise UserError if a map would be written where pictures are: over a file there, or to be taken for a picture."""
    targets = {(out / name).parent.resolve() for name in names}
    for path in found:
        if path.parent.resolve() in targets:
            raise UserError(
                f"--out={out} is where --images finds pictures ({path}): give another folder, so that no file there is "
                "overwritten and no map is taken for a picture the next time"
            )


def _read(path: Path) -> photo.Photo:
    """Read a picture; UserError if it cannot be read or is too elongated."""
    picture = photo.read(path)
    height, width = picture.pixels.shape[:2]
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise UserError(f"{path}: {height}×{width} is too elongated for a picture of a street")
    return picture


if __name__ == "__main__":
    command_line.run(main)
