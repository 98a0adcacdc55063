"""Pictures in, maps out.

    python -m mtlflax.predict --workdir=DIR --images='photos/*.png' --out=DIR

For each picture NAME, of any size, as the run's tasks allow: `NAME_segmentation.png` (class colours),
`NAME_trainids.png` (8-bit class ids), `NAME_depth.png` (16-bit, metres × 256, 0 = unknown or beyond 255 m),
`NAME_depth_color.png` and `NAME_overlay.png` (the picture with the class colours, or else the depth's, over it).
"""

import argparse
import collections
import glob
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mtlflax import experiment
from mtlflax.data import photo
from mtlflax.errors import UserError
from mtlflax.experiment import Network
from mtlflax.files import plain_errors
from mtlflax.run.checkpoint import Checkpoints
from mtlflax.run.map_files import FOCAL_BASELINE, write_maps
from mtlflax.training import parallel
from mtlflax.training.step import normalise

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Longer pictures than this many times their width, or the other way round, are skipped: memory grows with the aspect.
_MAX_ASPECT = 8


def restore(workdir: str | Path) -> tuple[Network, dict[str, Any]]:
    """Restore a run's best network (or its latest, if none has competed) on one device.

    Only parameters and batch statistics are read, and the data set is not looked for.

    Returns:
        The network, and its variables.

    Raises:
        UserError: no run there, or none of its checkpoints can be read.
    """
    network = experiment.load(workdir)
    sharding = parallel.replicated(parallel.make_mesh(1))
    like = jax.jit(network.init_variables, out_shardings=sharding)()
    _, variables = Checkpoints(Path(workdir), read_only=True).restore_best(like, variables_only=True)
    return network, variables


def load(workdir: str | Path) -> tuple[Network, Callable[[Any], dict[str, jax.Array]]]:
    """Load a run's network, as `restore` does.

    Returns:
        The network, and a function from images, uint8 [B, H, W, 3] RGB, to predictions: task → float32
        [B, H, W, channels]. It is compiled for each new shape of its input.

    Raises:
        UserError: no run there, or none of its checkpoints can be read.
    """
    network, variables = restore(workdir)

    @jax.jit
    def predict(images: jax.Array) -> dict[str, jax.Array]:
        outputs = network.model.apply(variables, normalise(images), train=False)
        return {task.name: task.activation(outputs[task.name]) for task in network.tasks}

    return network, predict


def predict_picture(
    picture: np.ndarray, predict: Callable[[Any], dict[str, jax.Array]], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Predicts one picture at the size the network was trained at.

    Args:
        picture: uint8 [H, W, 3], RGB.
        predict: from `load`.
        size: (H, W) of the training images, made from frames twice as wide as high. The picture is scaled as those
            frames were, by its height; its width follows, to a multiple of 32.

    Returns:
        Task → float32 [h, w, channels], of that size: `map_files.enlarge` makes them the picture's.
    """
    full_height, full_width = picture.shape[:2]
    height = size[0]
    width = max(32, round(full_width / full_height * size[1] / 2 / 32) * 32)
    shrinking = height * width < full_height * full_width
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    maps = jax.device_get(predict(jnp.asarray(small[None])))
    return {task: values[0] for task, values in maps.items()}


def find_pictures(pattern: str) -> list[Path]:
    """The pictures of a folder, or those that a glob pattern names, sorted.

    Raises:
        UserError: there are none.
    """
    if Path(pattern).is_file():  # before it is taken for a pattern: names may hold brackets
        found = [Path(pattern)]
    elif Path(pattern).is_dir():
        found = [p for p in Path(pattern).iterdir() if p.suffix.lower() in _SUFFIXES]
    else:
        # glob.glob and not Path.glob: a pattern may start at the root, and folders in it may be patterns too.
        found = [Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file()]  # noqa: PTH207 (see above)
    if not found:
        raise UserError(f"--images: no pictures at {pattern!r}: give a folder or a quoted pattern like 'photos/*.png'")
    return sorted(found)


def _names(paths: Sequence[Path]) -> list[str]:
    """What each picture's maps are called: its name, with its ending and folders where others share it."""
    stems = collections.Counter(path.stem for path in paths)
    common = Path(os.path.commonpath([path.resolve().parent for path in paths]))
    return [
        path.stem if stems[path.stem] == 1 else "_".join(path.resolve().relative_to(common).parts) for path in paths
    ]


def _read(path: Path) -> np.ndarray:
    """A picture as uint8 [H, W, 3] RGB; UserError where it cannot be read or is of no use."""
    picture = photo.read(path)
    height, width = picture.shape[:2]
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise UserError(f"{path}: {height}×{width} is no picture of a street")
    return picture


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code: 1 where a file could not be read."""
    parser = argparse.ArgumentParser("python -m mtlflax.predict", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a run's folder")
    parser.add_argument("--images", required=True, help="a folder, or a quoted pattern: 'photos/*.png'")
    parser.add_argument("--out", type=Path, required=True, help="where the maps are written")
    parser.add_argument(
        "--focal_baseline",
        type=float,
        default=FOCAL_BASELINE,
        help="focal length (pixels, of the picture scaled to 1024 pixels height) × the training set's stereo baseline "
        "(m): what turns a predicted disparity into metres; default: Cityscapes' first rig. Networks trained on metres "
        "or inverse metres have no use for it",
    )
    options = parser.parse_args(argv)
    found = find_pictures(options.images)
    names = _names(found)
    network, predict = load(options.workdir)
    with plain_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    skipped = 0
    bar = tqdm(found, unit="picture", disable=not sys.stderr.isatty())
    for path, name in zip(bar, names, strict=True):
        try:
            picture = _read(path)
        except UserError as error:
            bar.write(f"skipped {error}", file=sys.stderr)
            skipped += 1
            continue
        maps = predict_picture(picture, predict, network.size)
        write_maps(picture, maps, network.tasks, options.out / name, options.focal_baseline)
        if not sys.stderr.isatty():
            print(f"{path} done", file=sys.stderr, flush=True)
    print(f"{len(found) - skipped} pictures done, {skipped} skipped; maps in {options.out}")
    return 1 if skipped else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
