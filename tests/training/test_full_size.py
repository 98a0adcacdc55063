"""The evaluation step at the truth's own size."""

import dataclasses
from types import SimpleNamespace

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from mtlflax import tasks
from mtlflax.data import labels
from mtlflax.data.source import Image, Labels
from mtlflax.run import map_files
from mtlflax.training import parallel
from mtlflax.training.step import TrainState, enlarge, make_evaluation_step


@pytest.mark.parametrize(
    ("small", "large"), [((7, 12), (32, 64)), ((8, 8), (8, 8)), ((1, 3), (5, 2)), ((16, 9), (7, 20))]
)
def test_predictions_are_enlarged_as_prediction_writes_them(small, large):
    values = np.random.default_rng(0).standard_normal((*small, 3)).astype(np.float32)
    np.testing.assert_allclose(enlarge(jnp.asarray(values), large), map_files.enlarge(values, large), atol=1e-5)


def test_a_task_sees_all_at_full_size_and_exports_what_it_scores():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((4, 8, 16, 19)).astype(np.float32)
    fields = {"image": Image(), "segmentation": Labels(labels.table(19))}
    own = tasks.segmentation(fields)

    def sums(prediction, batch):
        difference = jnp.abs(prediction[..., :3] - batch["image"])  # needs the image at the size of the prediction
        return {**own.sums(prediction, batch), "difference": jnp.sum(difference)}

    task = dataclasses.replace(own, sums=sums)
    model = SimpleNamespace(apply=lambda variables, images, train: {"segmentation": variables["params"]["logits"]})
    step = make_evaluation_step(model, [task], size=(32, 64), export=(task, (32, 64)))
    out_specs = (parallel.REPLICATED, parallel.SHARDED, parallel.SHARDED)
    mesh = parallel.make_mesh(1)
    step = parallel.map_step(step, mesh, out_specs=out_specs)
    truth = rng.integers(0, 19, (4, 32, 64)).astype(np.uint8)
    image = rng.integers(0, 256, (4, 8, 16, 3)).astype(np.uint8)
    batch = {"image": image, "segmentation": truth, "mask": np.ones(4, np.float32), "frame": np.arange(4)}
    state = TrainState(step=0, params={"logits": logits}, batch_stats={}, optimizer=None, weighting=None)
    (_, found), pictures, maps = step(state, batch)
    assert pictures["segmentation"].shape == (4, 8, 16)
    assert (maps.shape, maps.dtype) == ((4, 32, 64), np.uint8)
    for i in range(4):
        expected = cv2.resize(logits[i], (64, 32), interpolation=cv2.INTER_LINEAR).argmax(-1)
        assert (maps[i] == expected).mean() > 0.999
        confusion = np.zeros((19, 19), int)
        np.add.at(confusion, (truth[i], np.asarray(maps[i])), 1)
        np.testing.assert_array_equal(found["segmentation"]["confusion"][i], confusion)
        large = cv2.resize(image[i].astype(np.float32), (64, 32), interpolation=cv2.INTER_LINEAR)
        difference = np.abs(cv2.resize(logits[i], (64, 32))[..., :3] - large).sum()
        assert found["segmentation"]["difference"][i] == pytest.approx(difference, rel=1e-3)
