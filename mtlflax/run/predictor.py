"""A trained run as prediction and export need it: its network, its variables, and what they make of pictures."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from mtlflax import compiler, experiment
from mtlflax.data import resize
from mtlflax.data.source import Image
from mtlflax.experiment import Predictor
from mtlflax.run import official
from mtlflax.run.checkpoint import Checkpoints
from mtlflax.training.step import enlarge, normalize


class Run(NamedTuple):
    """A trained run, as far as prediction and export need it."""

    network: Predictor
    step: int  # of the checkpoint
    variables: dict[str, Any]  # `params` and `batch_stats`, on one device


class Picture(NamedTuple):
    """A picture, or a frame of a video, that is to be predicted."""

    path: Path
    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    small: np.ndarray  # as the network sees it, uint8 [h, w, 3]
    note: str = ""


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
    """Return `network_function` jitted: it is compiled for each new shape of its input.

    On a CPU, a batch is predicted by the forward pass of training, which takes less time (`models.winograd`) and rounds
    otherwise. Since it takes longer to compile, a picture alone is not: pictures of many sizes come one by one.
    """

    def predict(images: jax.Array) -> dict[str, jax.Array]:
        if len(images) == 1 or not compiler.options():
            return network_function(run)(images)
        # The forward pass of jax.vjp; nothing is pulled back, so the compiler drops what it keeps for that.
        forward = lambda variables: network_function(run._replace(variables=variables))(images)  # noqa: E731
        return jax.vjp(forward, run.variables)[0]

    return jax.jit(predict, compiler_options=compiler.options())


def network_function(run: Run) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Return a function from images, uint8 [B, H, W, 3] RGB, to predictions: task → float32 [B, H, W, channels]."""

    def predict(images: jax.Array) -> dict[str, jax.Array]:
        outputs = run.network.model.apply(run.variables, normalize(images), train=False)
        return {task.name: task.activation(outputs[task.name]) for task in run.network.tasks}

    return predict


def make_predict_batch(
    run: Run, batch_size: int
) -> Callable[[Sequence[np.ndarray]], list[Callable[[], dict[str, np.ndarray]]]]:
    """Return a function from pictures as the network sees them, at most `batch_size` of one size, to predictions.

    For each picture it returns a function without arguments, which gives task → float32 [h, w, channels]. The network
    is under way when they are returned; the first that is called waits for it, and any thread may call them.
    """
    predict = make_predict(run)

    def predict_batch(pictures: Sequence[np.ndarray]) -> list[Callable[[], dict[str, np.ndarray]]]:
        rows = list(pictures)
        # A batch that is not full is filled up: a program is compiled for each number of pictures.
        rows += rows[-1:] * ((batch_size - len(rows)) * (len(rows) > 1))
        maps = predict(jnp.asarray(np.stack(rows)))
        fetched = functools.cache(lambda: jax.device_get(maps))

        def of_picture(row: int) -> dict[str, np.ndarray]:
            return {task: values[row] for task, values in fetched().items()}

        return [functools.partial(of_picture, row) for row in range(len(pictures))]

    return predict_batch


def batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Yield neighbors that the network sees at one size, at most so many together."""
    batch: list[Picture] = []
    for picture in pictures:
        if batch and (len(batch) == size or picture.small.shape != batch[0].small.shape):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch


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
    maps = jax.device_get(predict(jnp.asarray(scaled(picture, size, aspect)[None])))
    return {task: values[0] for task, values in maps.items()}


def scaled_for(run: Run, picture: np.ndarray) -> np.ndarray:
    """Return a picture as the network of a run sees it, uint8 [h, w, 3]."""
    image = run.network.fields["image"]
    return scaled(picture, run.network.size, image.aspect if isinstance(image, Image) else None)


def scaled(picture: np.ndarray, size: tuple[int, int], aspect: float | None = None) -> np.ndarray:
    """Return a picture as the network sees it, uint8 [h, w, 3]; see `predict_picture`."""
    full_height, full_width = picture.shape[:2]
    height = size[0]
    stretch = size[1] / (aspect * height) if aspect else 1.0
    width = max(32, round(full_width / full_height * height * stretch / 32) * 32)
    shrinking = height * width < full_height * full_width
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def make_predict_train_ids(run: Run) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from a picture, uint8 [H, W, 3] RGB, to its train ids, uint8 [H, W].

    The picture is brought to the size of the run's frames as Cityscapes' reader does it, and the prediction is enlarged
    as in evaluation at full size. (Evaluation rounds in batches; of ten million pixels of a U-Net's, one differed.)
    UserError if the run does not predict the 19 train ids.
    """
    network = run.network
    task = official.task(network.tasks, network.fields)

    @functools.partial(jax.jit, static_argnames="size", compiler_options=compiler.options())
    def predict(images: jax.Array, size: tuple[int, int]) -> jax.Array:
        outputs = network.model.apply(run.variables, normalize(images), train=False)
        return task.picture(enlarge(task.activation(outputs[task.name])[0], size)[None])[0]

    def train_ids(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        return np.asarray(predict(resize.picture(picture, network.size)[None], (height, width)))

    return train_ids
