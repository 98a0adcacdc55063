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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mtlflax import command_line, experiment
from mtlflax.data import photo, resize
from mtlflax.data.source import Image
from mtlflax.errors import UserError
from mtlflax.experiment import Predictor
from mtlflax.files import plain_errors
from mtlflax.run import compiled, official, picture_files
from mtlflax.run.checkpoint import Checkpoints
from mtlflax.run.map_files import FOCAL_BASELINE, write_maps
from mtlflax.training.step import enlarge, normalize

# Pictures longer than this many times their width, or the other way round, are skipped: memory grows with the aspect.
_MAX_ASPECT = 8


class Run(NamedTuple):
    """A trained run, as far as prediction and export need it."""

    network: Predictor
    step: int  # of the checkpoint
    variables: dict[str, Any]  # `params` and `batch_stats`, on one device


def load(folder: str | Path) -> Run:
    """Load the best checkpoint of a workdir, or the latest if none has a score.

    Only the network is built, and only its variables are restored: the optimizer and the weighting of the run may be
    unknown here, and its data set is not looked for.

    Raises:
        UserError: there is no run, its network cannot be built, or no checkpoint can be restored.
    """
    network = experiment.load(folder)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = network.variable_shapes
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})},
    )
    step, variables = Checkpoints(Path(folder), read_only=True).restore_best(like, variables_only=True)
    return Run(network, step, variables)


def make_predict(run: Run) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Return a function from images, uint8 [B, H, W, 3] RGB, to predictions: task → float32 [B, H, W, channels].

    It is compiled for each new shape of its input.
    """

    @jax.jit
    def predict(images: jax.Array) -> dict[str, jax.Array]:
        outputs = run.network.model.apply(run.variables, normalize(images), train=False)
        return {task.name: task.activation(outputs[task.name]) for task in run.network.tasks}

    return predict


def predict_picture(
    picture: np.ndarray,
    predict: Callable[[jax.Array], dict[str, jax.Array]],
    size: tuple[int, int],
    aspect: float | None = None,
) -> dict[str, np.ndarray]:
    """Predict one picture at the size the network was trained at.

    It is scaled as the frames were that the network was trained on: by its height, to that of their `size` (H, W); its
    width follows, to a multiple of 32. `aspect` is the width / height that those frames had at first; None = W / H.

    Returns task → float32 [h, w, channels], of that size: `map_files.enlarge` makes them the picture's.
    """
    full_height, full_width = picture.shape[:2]
    height = size[0]
    stretch = size[1] / (aspect * height) if aspect else 1.0
    width = max(32, round(full_width / full_height * height * stretch / 32) * 32)
    shrinking = height * width < full_height * full_width
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    maps = jax.device_get(predict(jnp.asarray(small[None])))
    return {task: values[0] for task, values in maps.items()}


def make_predict_train_ids(run: Run) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from a picture, uint8 [H, W, 3] RGB, to its train ids, uint8 [H, W].

    The picture is brought to the size of the run's frames as Cityscapes' reader does it, and the prediction is enlarged
    as in evaluation at full size. (Evaluation rounds in batches; of ten million pixels of a U-Net's, one differed.)
    UserError if the run does not predict the 19 train ids.
    """
    network = run.network
    task = official.task(network.tasks, network.fields)

    @functools.partial(jax.jit, static_argnames="size")
    def predict(images: jax.Array, size: tuple[int, int]) -> jax.Array:
        outputs = network.model.apply(run.variables, normalize(images), train=False)
        return task.picture(enlarge(task.activation(outputs[task.name])[0], size)[None])[0]

    def train_ids(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        return np.asarray(predict(resize.picture(picture, network.size)[None], (height, width)))

    return train_ids


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
    write = _make_writer(load(options.workdir), options)
    with plain_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    skipped = 0
    bar = tqdm(found, unit="picture", disable=not sys.stderr.isatty())
    for path, name in zip(bar, names, strict=True):
        try:
            picture, note = _read(path)
        except UserError as error:
            bar.write(f"skipped {error}", file=sys.stderr)
            skipped += 1
            continue
        if note:
            bar.write(f"NOTE: {path}: {note}", file=sys.stderr)
        write(picture, name)
        if not sys.stderr.isatty():
            print(f"{path} done", file=sys.stderr, flush=True)
    done = len(found) - skipped
    summary = f"{done} picture{'' if done == 1 else 's'} done, {skipped} skipped; maps in {options.out}"
    print(f"{summary} ({picture_files.describe(passed_over)})" if passed_over else summary)
    return 1 if skipped else 0


def _make_writer(run: Run, options: argparse.Namespace) -> Callable[[np.ndarray, Path], None]:
    """Return a function that predicts a picture and writes what the options ask for, under its name in `--out`."""
    if options.official:
        train_ids = make_predict_train_ids(run)
        return lambda picture, name: official.write(options.out, name.name, train_ids(picture))
    network, predict = run.network, make_predict(run)
    image = network.fields["image"]
    aspect = image.aspect if isinstance(image, Image) else None

    def write(picture: np.ndarray, name: Path) -> None:
        maps = predict_picture(picture, predict, network.size, aspect)
        write_maps(picture, maps, network.tasks, options.out / name, options.focal_baseline, raw=options.raw)

    return write


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
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--raw", action="store_true", help="write NAME_depth_metres.npy too")
    kind.add_argument("--official", action="store_true", help="write label ids for Cityscapes' evaluator, nothing else")
    return parser.parse_args(argv)


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
